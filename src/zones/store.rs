//! One zone's store, whatever its kind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    RetryConfig,
};
use url::Url;

use super::fault::{Error, Fault};
use super::folder::{Folder, State};
use super::options::ZoneOptions;
use super::zone::Begun;

/// A zone that sends nothing for so long has failed.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// No object is longer; a zone that says otherwise is not believed, or it could fill our memory.
const OBJECT_BYTES_MAX: u64 = 1 << 30;

#[derive(Clone, Debug)]
pub(super) struct Store {
    place: Place,
    prefix: Path,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(Arc<Folder>),
    Remote(Arc<dyn ObjectStore>),
}

/// What a create-only write met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    New,
    Exists,
}

impl Store {
    pub(super) fn open(options: &ZoneOptions) -> Result<Self, Error> {
        let bad =
            |problem: String| Error::Url { zone: options.name.clone(), url: options.url.clone(), problem };
        if options.url.starts_with('/') {
            return Ok(Self::folder(PathBuf::from(&options.url)));
        }
        let url = Url::parse(&options.url).map_err(|error| bad(error.to_string()))?;
        let store = match url.scheme() {
            "file" => {
                let path = url.to_file_path().map_err(|()| bad("it names no absolute path".into()))?;
                return Ok(Self::folder(path));
            }
            "s3" | "s3a" => s3(options)?,
            "az" | "azure" | "abfs" | "abfss" => azure(options)?,
            "gs" => google(options)?,
            other => return Err(bad(format!("its scheme {other:?} is not known"))),
        };
        let prefix = Path::from_url_path(url.path()).map_err(|error| bad(error.to_string()))?;
        Ok(Store { place: Place::Remote(store), prefix })
    }

    fn folder(path: PathBuf) -> Self {
        Store { place: Place::Folder(Arc::new(Folder::new(path))), prefix: Path::default() }
    }

    pub(super) fn remote(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Store { place: Place::Remote(store), prefix: Path::from(prefix) }
    }

    /// Returns whether dropping an operation ends it: a blocked system call on a folder does not end.
    pub(super) fn can_abort(&self) -> bool {
        matches!(self.place, Place::Remote(_))
    }

    fn path(&self, name: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(name).parts()))
    }

    async fn reach(&self) -> Result<Arc<dyn ObjectStore>, Fault> {
        match &self.place {
            Place::Remote(store) => Ok(store.clone()),
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.store()).await
            }
        }
    }

    /// Creates an object; one that exists is left as it is.
    pub(super) async fn create(&self, name: &str, bytes: Bytes) -> Result<Created, Fault> {
        let store = match &self.place {
            Place::Remote(store) => store,
            Place::Folder(folder) => {
                let (folder, name) = (folder.clone(), name.to_owned());
                return blocking(move || folder.create(&name, &bytes)).await;
            }
        };
        match store.put_opts(&self.path(name), bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Created::Exists)
            }
            Err(error) => Err(Fault::store(error)),
        }
    }

    /// Puts an object in place of what is there.
    pub(super) async fn replace(&self, name: &str, bytes: Bytes) -> Result<(), Fault> {
        match &self.place {
            Place::Remote(store) => {
                store.put(&self.path(name), bytes.into()).await.map(drop).map_err(Fault::store)
            }
            Place::Folder(folder) => {
                let (folder, name) = (folder.clone(), name.to_owned());
                blocking(move || folder.replace(&name, &bytes)).await
            }
        }
    }

    /// Deletes temporary files that crashed writers left; returns how many.
    pub(super) async fn sweep_leftovers(&self) -> Result<u64, Fault> {
        match &self.place {
            Place::Remote(_) => Ok(0),
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.sweep_leftovers()).await
            }
        }
    }

    /// Makes sure that an object which exists will go on existing.
    pub(super) async fn confirm(&self, name: &str) -> Result<(), Fault> {
        match &self.place {
            Place::Remote(_) => Ok(()),
            Place::Folder(folder) => {
                let (folder, name) = (folder.clone(), name.to_owned());
                blocking(move || folder.confirm(&name)).await
            }
        }
    }

    /// Reads an object or a part of it.
    pub(super) async fn get(
        &self,
        name: &str,
        range: Option<GetRange>,
        begun: &Begun,
    ) -> Result<Bytes, Fault> {
        let store = self.reach().await?;
        let options = GetOptions { range, ..GetOptions::default() };
        let answer = match quickly(store.get_opts(&self.path(name), options)).await {
            Err(Fault::NotFound) => return Err(self.absence().await),
            answer => answer?,
        };
        begun.note();
        let length = answer.range.end.saturating_sub(answer.range.start);
        if length > OBJECT_BYTES_MAX {
            return Err(Fault::Huge(length));
        }
        match answer.payload {
            GetResultPayload::File(..) => answer.bytes().await.map_err(Fault::store),
            GetResultPayload::Stream(mut stream) => {
                let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
                while let Some(some) = quickly(stream.try_next()).await? {
                    bytes.extend_from_slice(&some);
                }
                Ok(bytes.freeze())
            }
        }
    }

    /// Returns the length of an object.
    pub(super) async fn size(&self, name: &str) -> Result<u64, Fault> {
        let store = self.reach().await?;
        match quickly(store.head(&self.path(name))).await {
            Err(Fault::NotFound) => Err(self.absence().await),
            answer => Ok(answer?.size),
        }
    }

    /// Gives `take` all objects whose names begin with the folder `prefix`.
    pub(super) async fn list(
        &self,
        prefix: &str,
        mut take: impl FnMut(String, ObjectMeta),
    ) -> Result<(), Fault> {
        let store = self.reach().await?;
        let mut found = store.list(Some(&self.path(prefix)));
        let mut any = false;
        while let Some(meta) = quickly(found.try_next()).await? {
            any = true;
            if let Some(name) = self.name(&meta.location) {
                take(name, meta);
            }
        }
        if any { Ok(()) } else { self.vouch().await }
    }

    /// Returns the names of the folders directly in the folder `prefix`.
    pub(super) async fn folders(&self, prefix: &str) -> Result<Vec<String>, Fault> {
        let store = self.reach().await?;
        let found = match quickly(store.list_with_delimiter(Some(&self.path(prefix)))).await {
            // A local folder that is not there lists so.
            Err(Fault::NotFound) => return self.vouch().await.map(|()| Vec::new()),
            found => found?,
        };
        if found.common_prefixes.is_empty() {
            self.vouch().await?;
        }
        Ok(found.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Says that there is nothing, if this zone can be believed.
    async fn vouch(&self) -> Result<(), Fault> {
        match &self.place {
            Place::Remote(_) => Ok(()),
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.vouch()).await
            }
        }
    }

    async fn absence(&self) -> Fault {
        self.vouch().await.err().unwrap_or(Fault::NotFound)
    }

    /// Returns whether this zone is a folder that could become a new zone, or is in use.
    pub(super) async fn state(&self) -> Result<State, Fault> {
        match &self.place {
            Place::Remote(_) if self.folders("").await?.is_empty() => Ok(State::Empty),
            Place::Remote(_) => Ok(State::Used),
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.state()).await
            }
        }
    }

    /// Marks an empty folder as a zone.
    pub(super) async fn mark(&self) -> Result<(), Fault> {
        match &self.place {
            Place::Remote(_) => Ok(()),
            Place::Folder(folder) => {
                let folder = folder.clone();
                blocking(move || folder.mark()).await
            }
        }
    }

    /// Deletes an object; one that is not there is deleted already.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Fault> {
        let store = self.reach().await?;
        match quickly(store.delete(&self.path(name))).await {
            Ok(()) | Err(Fault::NotFound) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Returns the name of an object at a path of the store.
    fn name(&self, path: &Path) -> Option<String> {
        let inner: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        Some(Path::from_iter(inner).to_string())
    }
}

/// Waits for one answer of a store.
async fn quickly<T>(answer: impl Future<Output = Result<T, object_store::Error>>) -> Result<T, Fault> {
    match tokio::time::timeout(SILENCE, answer).await {
        Ok(answer) => answer.map_err(Fault::store),
        Err(_) => Err(Fault::Slow(SILENCE)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Fault::Stopped))
}

/// Our own limits are the tighter ones: these only end what nobody waits for any more.
fn client() -> ClientOptions {
    ClientOptions::new().with_connect_timeout(Duration::from_secs(5)).with_timeout(Duration::from_secs(600))
}

/// A zone that needs more tries than this is failing; the other zones do not wait for it.
fn retry() -> RetryConfig {
    RetryConfig { max_retries: 2, retry_timeout: SILENCE, ..RetryConfig::default() }
}

fn s3(options: &ZoneOptions) -> Result<Arc<dyn ObjectStore>, Error> {
    let builder =
        AmazonS3Builder::from_env().with_client_options(client()).with_retry(retry()).with_url(&options.url);
    let builder = configured(options, builder, |b, key: AmazonS3ConfigKey, value| b.with_config(key, value))?;
    built(options, builder.build())
}

fn azure(options: &ZoneOptions) -> Result<Arc<dyn ObjectStore>, Error> {
    let builder = MicrosoftAzureBuilder::from_env()
        .with_client_options(client())
        .with_retry(retry())
        .with_url(&options.url);
    let builder = configured(options, builder, |b, key: AzureConfigKey, value| b.with_config(key, value))?;
    built(options, builder.build())
}

fn google(options: &ZoneOptions) -> Result<Arc<dyn ObjectStore>, Error> {
    let builder = GoogleCloudStorageBuilder::from_env()
        .with_client_options(client())
        .with_retry(retry())
        .with_url(&options.url);
    let builder = configured(options, builder, |b, key: GoogleConfigKey, value| b.with_config(key, value))?;
    built(options, builder.build())
}

fn configured<B, K: std::str::FromStr>(
    options: &ZoneOptions,
    builder: B,
    with: impl Fn(B, K, &str) -> B,
) -> Result<B, Error> {
    options.options.iter().try_fold(builder, |builder, (key, value)| {
        let unknown = |_| Error::Option { zone: options.name.clone(), option: key.clone() };
        Ok(with(builder, key.to_ascii_lowercase().parse().map_err(unknown)?, value))
    })
}

fn built<S: ObjectStore>(
    options: &ZoneOptions,
    result: Result<S, object_store::Error>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    match result {
        Ok(store) => Ok(Arc::new(store)),
        Err(source) => Err(Error::Store { zone: options.name.clone(), source }),
    }
}
