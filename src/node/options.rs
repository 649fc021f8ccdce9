//! How to reach one server: libpq's words, without a password in them.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use zeroize::Zeroizing;

use super::Error;

/// Text that never prints and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }

    /// Returns the text itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How to reach one server.
#[derive(Clone, Debug, Default)]
pub struct ConnectionOptions {
    /// libpq's `key=value` words or a `postgresql://` URL, without a password. One host. Not given: the
    /// local socket, user `postgres`, database `postgres`.
    pub conninfo: String,
    pub password: Option<Secret>,
    /// PEM certificates to trust in place of the operating system's.
    pub tls_root_cert: Option<PathBuf>,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Socket(PathBuf),
    Tcp { host: String, address: Option<IpAddr>, port: u16 },
}

/// What the words mean.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) place: Place,
    pub(super) user: String,
    pub(super) ssl: SslMode,
    pub(super) connect_timeout: Duration,
    /// For messages: `host:port` or the socket's path.
    pub(super) server: String,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_USER: &str = "postgres";

impl ConnectionOptions {
    /// Returns how to reach another server with the same role, password and demands on TLS.
    pub fn toward(&self, host: &str, port: u16, database: &str) -> Result<ConnectionOptions, Error> {
        let target = self.target()?;
        let ssl = match target.ssl {
            SslMode::Disable => "disable",
            SslMode::Require => "require",
            _ => "prefer",
        };
        let words = [host, &target.user, database].map(quoted);
        let [host, user, database] = words;
        Ok(ConnectionOptions {
            conninfo: format!("host={host} port={port} user={user} dbname={database} sslmode={ssl}"),
            password: self.password.clone(),
            tls_root_cert: self.tls_root_cert.clone(),
        })
    }

    pub(super) fn target(&self) -> Result<Target, Error> {
        let bad = |problem: String| Error::Options { problem };
        // Certificates are verified in full wherever sslmode is stronger than `prefer`.
        let words = self
            .conninfo
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        let mut config: Config = words.parse().map_err(|e: tokio_postgres::Error| {
            bad(std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string))
        })?;
        if config.get_password().is_some() {
            return Err(bad(
                "a password may not stand in the connection words; configure it as a secret".to_owned()
            ));
        }
        if let Some(password) = &self.password {
            config.password(password.reveal());
        }
        let place = place(&mut config).map_err(bad)?;
        let user = config.get_user().unwrap_or(DEFAULT_USER).to_owned();
        let connect_timeout = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        config.user(&user).connect_timeout(connect_timeout);
        if config.get_dbname().is_none() {
            config.dbname("postgres");
        }
        if config.get_application_name().is_none() {
            config.application_name("pitrus");
        }
        let server = match &place {
            Place::Socket(path) => path.display().to_string(),
            Place::Tcp { host, port, .. } => format!("{host}:{port}"),
        };
        let ssl = config.get_ssl_mode();
        Ok(Target { config, place, user, ssl, connect_timeout, server })
    }
}

/// Returns a value as libpq's `key=value` words take any.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn place(config: &mut Config) -> Result<Place, String> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    if hosts.len() > 1 || addresses.len() > 1 || ports.len() > 1 {
        return Err("a node is one server: give one host and one port".to_owned());
    }
    let (host, address) = (hosts.first().cloned(), addresses.first().copied());
    let port = ports.first().copied().unwrap_or(5432);
    match (host, address) {
        (Some(Host::Tcp(host)), _) => Ok(Place::Tcp { host, address, port }),
        (Some(Host::Unix(folder)), _) => Ok(Place::Socket(socket(&folder, port))),
        (None, Some(ip)) => {
            config.host(ip.to_string());
            Ok(Place::Tcp { host: ip.to_string(), address, port })
        }
        (None, None) => {
            // Debian's place, else the one PostgreSQL itself is built with.
            let debian = Path::new("/var/run/postgresql");
            let folder = if debian.is_dir() { debian } else { Path::new("/tmp") };
            config.host_path(folder);
            Ok(Place::Socket(socket(folder, port)))
        }
    }
}

fn socket(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(conninfo: &str) -> Result<Target, Error> {
        ConnectionOptions { conninfo: conninfo.to_owned(), ..Default::default() }.target()
    }

    #[test]
    fn reads_what_libpq_reads() {
        let local = target("host=/run/pg port=5444 user=backup").unwrap();
        assert_eq!(local.place, Place::Socket("/run/pg/.s.PGSQL.5444".into()));
        assert_eq!(local.user, "backup");
        let url = target("postgresql://db.example:5433/app?sslmode=verify-full").unwrap();
        assert_eq!(url.place, Place::Tcp { host: "db.example".into(), address: None, port: 5433 });
        assert_eq!((url.ssl, url.user.as_str()), (SslMode::Require, "postgres"));
        assert!(matches!(target("").unwrap().place, Place::Socket(_)));
    }

    #[test]
    fn another_server_is_reached_in_the_same_way() {
        let own = ConnectionOptions {
            conninfo: "host=/run/pg user=back\\'up sslmode=verify-full".to_owned(),
            password: Some(Secret::new("p".to_owned())),
            tls_root_cert: Some("/etc/ca.pem".into()),
        };
        let other = own.toward("10.0.0.1", 5433, "a b").unwrap();
        let target = other.target().unwrap();
        assert_eq!(target.place, Place::Tcp { host: "10.0.0.1".into(), address: None, port: 5433 });
        assert_eq!((target.user.as_str(), target.ssl), ("back'up", SslMode::Require));
        assert_eq!(target.config.get_dbname(), Some("a b"));
        assert_eq!((target.config.get_password(), other.tls_root_cert), (Some(&b"p"[..]), own.tls_root_cert));
    }

    #[test]
    fn refuses_passwords_and_several_hosts() {
        for bad in [
            "host=a,b",
            "postgresql://u:hunter2@h/",
            "host=a password=hunter2",
            "nonsense=1",
            "host=a port=1,2",
        ] {
            let error = target(bad).err().unwrap();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "Secret(…)");
    }
}
