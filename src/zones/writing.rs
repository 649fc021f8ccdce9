//! Which objects are being written to one zone, so that a delete waits for them.
//!
//! A write goes on behind its quorum, and on a folder even when nobody waits for it any more. If it ended
//! after the object was deleted, it would bring it back: so a write is noted here, from before its caller
//! can know of it until it really ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The writes under way to one zone.
#[derive(Debug, Default)]
pub(super) struct Writes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How many write each name.
    names: Mutex<HashMap<Arc<str>, usize>>,
    ended: Notify,
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One write of one object. Under way until it is dropped.
#[derive(Debug)]
pub(super) struct Writing {
    writes: Arc<Inner>,
    pub(super) name: Arc<str>,
}

impl Writes {
    pub(super) fn begin(&self, name: &Arc<str>) -> Arc<Writing> {
        *self.0.names().entry(name.clone()).or_default() += 1;
        Arc::new(Writing { writes: self.0.clone(), name: name.clone() })
    }

    /// Waits until nobody writes an object of this name.
    pub(super) async fn ended(&self, name: &str) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.0.names().contains_key(name) {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut names = self.writes.names();
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&self.name);
            }
        }
        drop(names);
        self.writes.ended.notify_waiters();
    }
}
