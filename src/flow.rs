//! Bounded fan-out: nothing unbounded exists.

use std::future::Future;

use futures::stream::{StreamExt, TryStreamExt};

/// Runs `work` over `items`, at most `at_once` together, and stops at the first error. Results come
/// in the order of the items.
pub async fn try_map<T, U, E, F, W>(items: Vec<T>, at_once: usize, work: W) -> Result<Vec<U>, E>
where
    W: Fn(T) -> F,
    F: Future<Output = Result<U, E>>,
{
    futures::stream::iter(items.into_iter().map(work)).buffered(at_once.max(1)).try_collect().await
}

/// Runs `work` over `items`, at most `at_once` together, to the end, whatever fails.
pub async fn map<T, U, F, W>(items: Vec<T>, at_once: usize, work: W) -> Vec<U>
where
    W: Fn(T) -> F,
    F: Future<Output = U>,
{
    futures::stream::iter(items.into_iter().map(work)).buffered(at_once.max(1)).collect().await
}
