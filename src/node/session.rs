//! A SQL session with one server.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::options::Target;
use super::tls::Connector;
use super::{ConnectionOptions, Error};

/// A SQL session; closed when dropped.
pub struct Session {
    client: Client,
    options: ConnectionOptions,
    server: String,
    driver: JoinHandle<()>,
}

impl Session {
    /// Connects, to `database` where given, else to the one the options name.
    pub async fn connect(options: &ConnectionOptions, database: Option<&str>) -> Result<Session, Error> {
        let Target { mut config, server, ssl, .. } = options.target()?;
        if let Some(database) = database {
            config.dbname(database);
        }
        // A silent peer is noticed in about a minute, not in hours.
        config.keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10));
        config.options(format!("{} -c search_path=pg_catalog", config.get_options().unwrap_or_default()));
        let failed = |e| sql(&server, "connect", e);
        let (client, connection) = config.connect(Connector::new(options, ssl)?).await.map_err(failed)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "SQL connection ended");
            }
        });
        Ok(Session { client, options: options.clone(), server, driver })
    }

    /// Returns the session's client, for statements that [`Session::rows`] does not serve.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns how this session was made.
    pub fn options(&self) -> &ConnectionOptions {
        &self.options
    }

    /// Runs a query; `doing` says in an error what it was for.
    pub async fn rows(
        &self,
        doing: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.client.query(query, parameters).await.map_err(|e| self.failed(doing, e))
    }

    /// Runs a query that gives one row.
    pub async fn row(
        &self,
        doing: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Error> {
        self.client.query_one(query, parameters).await.map_err(|e| self.failed(doing, e))
    }

    /// Gives a driver's error its place.
    pub fn failed(&self, doing: &str, source: tokio_postgres::Error) -> Error {
        sql(&self.server, doing, source)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn sql(server: &str, doing: &str, source: tokio_postgres::Error) -> Error {
    Error::Sql { server: server.to_owned(), doing: doing.to_owned(), source: Box::new(source) }
}
