//! One replication connection's messages: framing over `postgres-protocol`, TLS, login, and plain
//! commands. tokio-postgres cannot ask for `replication=true` nor enter CopyBoth.
//!
//! Reading is cancel-safe: what arrived stays in `inbox`. Writing is too: what was not sent stays in
//! `outbox` and goes first the next time.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;

use super::options::{Place, Target};
use super::tls::Connector;
use super::{ConnectionOptions, Error, Secret};

/// No message of the server may be longer: WAL comes in pieces of 128 KiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const INBOX_BYTES: usize = 256 << 10;
/// How long the server may take to answer a command.
const ANSWER: Duration = Duration::from_secs(30);
/// `CopyBothResponse`, which `postgres-protocol` does not know.
const COPY_BOTH: u8 = b'W';

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) struct Wire {
    stream: Box<dyn Stream>,
    inbox: BytesMut,
    pub(super) outbox: BytesMut,
    pub(super) server: String,
}

pub(super) enum Frame {
    CopyBoth,
    Message(Message),
}

/// A text row; `None` is SQL's null.
pub(super) type TextRow = Vec<Option<String>>;

/// What login needs to know of the connection.
struct Login<'a> {
    user: &'a str,
    password: Option<&'a Secret>,
    /// TLS, or a socket of this machine: nobody listens.
    private: bool,
    end_point: Option<Vec<u8>>,
}

impl Wire {
    /// Connects and logs in for physical replication.
    pub(super) async fn connect(options: &ConnectionOptions) -> Result<Self, Error> {
        let target = options.target()?;
        let Target { server, connect_timeout, .. } = &target;
        let (stream, private, end_point) =
            timeout(*connect_timeout, dial(options, &target)).await.map_err(|_| Error::Connect {
                server: server.clone(),
                source: io::ErrorKind::TimedOut.into(),
            })??;
        let mut wire = Wire {
            stream,
            inbox: BytesMut::with_capacity(INBOX_BYTES),
            outbox: BytesMut::new(),
            server: server.clone(),
        };
        let application = target.config.get_application_name().unwrap_or("pitrus");
        // A server that gives up on silent standbys sooner than we speak would never stream for long.
        let given = target.config.get_options().unwrap_or_default();
        let own = format!("{given} -c wal_sender_timeout=60s");
        let words = [
            ("user", target.user.as_str()),
            ("replication", "true"),
            ("application_name", application),
            ("options", own.as_str()),
        ];
        frontend::startup_message(words, &mut wire.outbox).map_err(|e| wire.broken(e))?;
        wire.flush().await?;
        wire.login(Login { user: &target.user, password: options.password.as_ref(), private, end_point })
            .await?;
        Ok(wire)
    }

    async fn login(&mut self, login: Login<'_>) -> Result<(), Error> {
        let password = |server: &str| {
            let none = || Error::NoPassword { server: server.to_owned() };
            login.password.map(|p| p.reveal().as_bytes()).ok_or_else(none)
        };
        let mut scram: Option<ScramSha256> = None;
        loop {
            match self.answer().await? {
                Message::AuthenticationCleartextPassword => {
                    if !login.private {
                        return Err(Error::ClearPassword { server: self.server.clone() });
                    }
                    frontend::password_message(password(&self.server)?, &mut self.outbox)
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(login.user.as_bytes(), password(&self.server)?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.outbox)
                }
                Message::AuthenticationSasl(body) => {
                    let (mechanism, binding) = self.mechanism(&body, login.end_point.clone())?;
                    let begun = scram.insert(ScramSha256::new(password(&self.server)?, binding));
                    frontend::sasl_initial_response(mechanism, begun.message(), &mut self.outbox)
                }
                Message::AuthenticationSaslContinue(body) => {
                    let begun =
                        scram.as_mut().ok_or_else(|| self.protocol("SASL continues before it began"))?;
                    begun
                        .update(body.data())
                        .and_then(|()| frontend::sasl_response(begun.message(), &mut self.outbox))
                }
                Message::AuthenticationSaslFinal(body) => {
                    let begun = scram.as_mut().ok_or_else(|| self.protocol("SASL ends before it began"))?;
                    begun.finish(body.data())
                }
                Message::AuthenticationOk | Message::ParameterStatus(_) | Message::BackendKeyData(_) => {
                    Ok(())
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => return Err(self.refused("log in", &body)),
                _ => return Err(self.protocol("an authentication method that is not supported")),
            }
            .map_err(|e| self.protocol(&e.to_string()))?;
            self.flush().await?;
        }
    }

    /// Chooses SCRAM with channel binding where both sides can.
    fn mechanism(
        &self,
        offered: &AuthenticationSaslBody,
        end_point: Option<Vec<u8>>,
    ) -> Result<(&'static str, ChannelBinding), Error> {
        let (mut plain, mut plus) = (false, false);
        let mut names = offered.mechanisms();
        while let Some(name) = names.next().map_err(|e| self.broken(e))? {
            plain |= name == SCRAM_SHA_256;
            plus |= name == SCRAM_SHA_256_PLUS;
        }
        match end_point {
            Some(end_point) if plus => {
                Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point)))
            }
            // Tells the server that we could have bound: it then notices if someone hid its offer.
            Some(_) if plain => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
            None if plain => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
            _ => Err(self.protocol("no SASL mechanism in common")),
        }
    }

    /// Sends all of `outbox`.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        let sent = async {
            self.stream.write_all_buf(&mut self.outbox).await?;
            self.stream.flush().await
        };
        match timeout(ANSWER, sent).await {
            Ok(done) => done.map_err(|e| self.broken(e)),
            Err(_) => Err(self.silent(ANSWER)),
        }
    }

    /// Returns the next message, waiting as long as it takes.
    pub(super) async fn frame(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = self.parse()? {
                return Ok(frame);
            }
            if self.inbox.capacity() - self.inbox.len() < INBOX_BYTES / 4 {
                self.inbox.reserve(INBOX_BYTES);
            }
            let read = self.stream.read_buf(&mut self.inbox).await.map_err(|e| self.broken(e))?;
            if read == 0 {
                return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            let Some(header) = Header::parse(&self.inbox).map_err(|e| self.broken(e))? else {
                return Ok(None);
            };
            let length = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
            if length > MESSAGE_BYTES_MAX {
                return Err(self.protocol("a message longer than any that the server sends"));
            }
            if self.inbox.len() < length {
                self.inbox.reserve(length - self.inbox.len());
                return Ok(None);
            }
            if header.tag() == COPY_BOTH {
                self.inbox.advance(length);
                return Ok(Some(Frame::CopyBoth));
            }
            match Message::parse(&mut self.inbox).map_err(|e| self.broken(e))? {
                Some(Message::NoticeResponse(_)) => {}
                Some(message) => return Ok(Some(Frame::Message(message))),
                None => return Ok(None),
            }
        }
    }

    /// Returns the answer to a command, which must come in time.
    pub(super) async fn answer_frame(&mut self) -> Result<Frame, Error> {
        match timeout(ANSWER, self.frame()).await {
            Ok(frame) => frame,
            Err(_) => Err(self.silent(ANSWER)),
        }
    }

    async fn answer(&mut self) -> Result<Message, Error> {
        match self.answer_frame().await? {
            Frame::Message(message) => Ok(message),
            Frame::CopyBoth => Err(self.protocol("CopyBoth where none was asked for")),
        }
    }

    /// Runs a command and returns its rows as text.
    pub(super) async fn command(&mut self, doing: &str, command: &str) -> Result<Vec<TextRow>, Error> {
        frontend::query(command, &mut self.outbox).map_err(|e| self.broken(e))?;
        self.flush().await?;
        self.results(doing).await
    }

    /// Reads result sets up to where the server is ready again.
    pub(super) async fn results(&mut self, doing: &str) -> Result<Vec<TextRow>, Error> {
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            match self.answer().await? {
                Message::DataRow(body) => {
                    let columns = body.ranges().map(|range| {
                        let bytes = range.and_then(|r| body.buffer().get(r));
                        Ok(bytes.map(|b| String::from_utf8_lossy(b).into_owned()))
                    });
                    rows.push(columns.collect().map_err(|e| self.broken(e))?);
                }
                Message::ErrorResponse(body) => refused = Some(self.refused(doing, &body)),
                Message::ReadyForQuery(_) => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    pub(super) fn refused(&self, doing: &str, body: &ErrorResponseBody) -> Error {
        let (mut code, mut message) = (String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            match field.type_() {
                b'C' => code = String::from_utf8_lossy(field.value_bytes()).into_owned(),
                b'M' => message = String::from_utf8_lossy(field.value_bytes()).into_owned(),
                _ => {}
            }
        }
        Error::Server { server: self.server.clone(), doing: doing.to_owned(), code, message }
    }

    pub(super) fn protocol(&self, problem: &str) -> Error {
        Error::Protocol { server: self.server.clone(), problem: problem.to_owned() }
    }

    pub(super) fn broken(&self, source: io::Error) -> Error {
        Error::Broken { server: self.server.clone(), source }
    }

    pub(super) fn silent(&self, waited: Duration) -> Error {
        Error::Silent { server: self.server.clone(), seconds: waited.as_secs() }
    }

    /// Appends a CopyData message.
    pub(super) fn copy_data(&mut self, payload: Bytes) {
        frontend::CopyData::new(payload).expect("a status is short").write(&mut self.outbox);
    }
}

/// Opens the stream, encrypted as `sslmode` asks.
async fn dial(
    options: &ConnectionOptions,
    target: &Target,
) -> Result<(Box<dyn Stream>, bool, Option<Vec<u8>>), Error> {
    let server = || target.server.clone();
    let connect = |source| Error::Connect { server: server(), source };
    let (host, address, port) = match &target.place {
        Place::Socket(path) => {
            let stream = UnixStream::connect(path).await.map_err(connect)?;
            return Ok((Box::new(stream), true, None));
        }
        Place::Tcp { host, address, port } => (host, address, *port),
    };
    let mut tcp = match address {
        Some(ip) => TcpStream::connect((*ip, port)).await,
        None => TcpStream::connect((host.as_str(), port)).await,
    }
    .map_err(connect)?;
    tcp.set_nodelay(true).map_err(connect)?;
    if target.ssl == SslMode::Disable {
        return Ok((Box::new(tcp), false, None));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(connect)?;
    if tcp.read_u8().await.map_err(connect)? != b'S' {
        if target.ssl == SslMode::Prefer {
            return Ok((Box::new(tcp), false, None));
        }
        let source = io::Error::other("the server does not offer TLS");
        return Err(Error::Tls { server: server(), source });
    }
    let tls = |source| Error::Tls { server: server(), source };
    let connector = Connector::new(options, target.ssl)?.for_host(host);
    let stream = connector.handshake(tcp).await.map_err(tls)?;
    let end_point = stream.server_end_point();
    Ok((Box::new(stream), true, end_point))
}
