//! A store that fails on demand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Up,
    /// Every request fails at once.
    Down,
    /// Requests stay without an answer until the mode changes; then they fail.
    Hang,
    Slow(Duration),
    /// Writes are done and reported as failed.
    LostReply,
}

#[derive(Debug)]
pub(crate) struct Faulty {
    inner: InMemory,
    contents: Mutex<std::collections::BTreeMap<String, Bytes>>,
    mode: watch::Sender<Mode>,
    under_way: AtomicUsize,
}

impl Default for Faulty {
    fn default() -> Self {
        Faulty {
            inner: InMemory::new(),
            contents: Mutex::default(),
            mode: watch::Sender::new(Mode::Up),
            under_way: AtomicUsize::new(0),
        }
    }
}

fn failed() -> Error {
    Error::Generic { store: "faulty", source: "on demand".into() }
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Faulty {
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Returns what it really holds.
    pub(crate) fn held(&self, name: &str) -> Option<Bytes> {
        self.contents.lock().unwrap().get(name).cloned()
    }

    /// Returns how many requests wait for an answer.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    async fn meet(&self) -> Result<()> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _guard = UnderWay(&self.under_way);
        let mode = *self.mode.borrow();
        match mode {
            Mode::Up | Mode::LostReply => Ok(()),
            Mode::Down => Err(failed()),
            Mode::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Mode::Hang => {
                let _ = self.mode.subscribe().wait_for(|mode| *mode != Mode::Hang).await;
                Err(failed())
            }
        }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.meet().await?;
        let bytes: Bytes = payload.clone().into();
        let put = self.inner.put_opts(at, payload, options).await?;
        self.contents.lock().unwrap().insert(at.to_string(), bytes);
        let lost = *self.mode.borrow() == Mode::LostReply;
        if lost { Err(failed()) } else { Ok(put) }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failed())
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.meet().await?;
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let down = *self.mode.borrow() == Mode::Down;
        let paths = futures::executor::block_on(paths.collect::<Vec<_>>());
        let mut done = Vec::new();
        for path in paths {
            done.push(path.and_then(|path| {
                if down {
                    return Err(failed());
                }
                self.contents.lock().unwrap().remove(path.as_ref());
                Ok(path)
            }));
        }
        let deleted: Vec<Result<Path>> =
            done.iter().filter_map(|d| d.as_ref().ok()).cloned().map(Ok).collect();
        let inner = self.inner.delete_stream(futures::stream::iter(deleted).boxed());
        futures::stream::iter(done.into_iter().filter(|d| d.is_err())).chain(inner).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if *self.mode.borrow() == Mode::Down {
            return futures::stream::iter([Err(failed())]).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.meet().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failed())
    }
}
