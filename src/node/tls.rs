//! TLS for both kinds of connection, by rustls.
//!
//! `sslmode=prefer` encrypts without asking who answers, as libpq does; `require` and stronger verify
//! the certificate and the name, which libpq does only when told to. With `tls_root_cert` given it is
//! always verified: signed by one of those certificates, or being one of them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};

use super::{ConnectionOptions, Error};

/// Makes TLS streams.
#[derive(Clone)]
pub(super) struct Connector {
    config: Arc<ClientConfig>,
}

/// A TLS stream over `S`.
pub(super) struct TlsStream<S>(tokio_rustls::client::TlsStream<S>);

/// A connector for one host.
pub(super) struct ForHost {
    connector: Connector,
    host: String,
}

impl Connector {
    pub(super) fn new(options: &ConnectionOptions, mode: SslMode) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3");
        let verifier: Arc<dyn ServerCertVerifier> = match &options.tls_root_cert {
            Some(path) => Arc::new(Trust::from_file(path, provider)?),
            None if mode != SslMode::Require => Arc::new(Trust { known: None, provider }),
            None => Arc::new(rustls_platform_verifier::Verifier::new(provider).map_err(|e| {
                Error::Certificate { path: "/etc/ssl/certs".into(), source: io::Error::other(e) }
            })?),
        };
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Connector { config: Arc::new(config) })
    }

    pub(super) fn for_host(&self, host: &str) -> ForHost {
        ForHost { connector: self.clone(), host: host.to_owned() }
    }
}

impl ForHost {
    pub(super) async fn handshake<S>(self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Only now: tokio-postgres makes connectors for sockets too, which have no name.
        let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(self.connector.config);
        connector.connect(name, stream).await.map(TlsStream)
    }
}

impl<S> TlsStream<S> {
    /// Returns the `tls-server-end-point` binding (RFC 5929), where the certificate has one.
    pub(super) fn server_end_point(&self) -> Option<Vec<u8>> {
        end_point(self.0.get_ref().1.peer_certificates()?.first()?)
    }
}

impl<S> MakeTlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = TlsStream<S>;
    type TlsConnect = ForHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<ForHost> {
        Ok(self.for_host(domain))
    }
}

impl<S> TlsConnect<S> for ForHost
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = TlsStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsStream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(self.handshake(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for TlsStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.server_end_point().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Trusts the certificates of a file and what they signed; without any, whoever answers.
#[derive(Debug)]
struct Trust {
    known: Option<Known>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Known {
    certificates: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl Trust {
    fn from_file(path: &std::path::Path, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let bad = |source| Error::Certificate { path: path.to_owned(), source };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| bad(io::Error::other(e)))?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|e| bad(io::Error::other(e)))?;
        }
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| bad(io::Error::other(e)))?;
        Ok(Trust { known: Some(Known { certificates, signed }), provider })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.known {
            // PostgreSQL's documentation has people make self-signed certificates that no chain can be built from.
            Some(known) if !known.certificates.iter().any(|c| c == end_entity) => {
                known.signed.verify_server_cert(end_entity, intermediates, name, ocsp, now)
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms).or_else(|error| {
            // Citus makes itself certificates of X.509's first version, which webpki does not read.
            let key = public_key(cert).ok_or(error)?.into();
            rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const SEQUENCE: u8 = 0x30;

/// Hashes a certificate with the hash of its own signature, SHA-256 in place of MD5 and SHA-1.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_algorithm(certificate)? {
        // md5, sha1, sha256 WithRSAEncryption; ecdsa-with-SHA1, -SHA256
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 4 | 5 | 11]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 1]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 2] => Sha256::digest(certificate).to_vec(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 12] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 3] => {
            Sha384::digest(certificate).to_vec()
        }
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 13] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 4] => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

/// Returns the object identifier in `Certificate { tbs, signatureAlgorithm { algorithm, … }, … }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (certificate, _) = der(SEQUENCE, certificate)?;
    let (_, after_tbs) = der(SEQUENCE, certificate)?;
    let (algorithm, _) = der(SEQUENCE, after_tbs)?;
    Some(der(OBJECT_IDENTIFIER, algorithm)?.0)
}

/// Returns the public key, encoded, of a certificate of the first version:
/// `tbs { serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, … }`.
fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    const INTEGER: u8 = 0x02;
    let (certificate, _) = der(SEQUENCE, certificate)?;
    let (tbs, _) = der(SEQUENCE, certificate)?;
    let (_, mut rest) = der(INTEGER, tbs)?;
    for _before_the_key in 0..4 {
        (_, rest) = der(SEQUENCE, rest)?;
    }
    let (_, after) = der(SEQUENCE, rest)?;
    rest.get(..rest.len() - after.len())
}

/// Splits one DER value of this tag from what follows it.
fn der(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let digits = usize::from(first & 0x7f);
        let (big, rest) = (digits <= 4).then(|| rest.split_at_checked(digits))??;
        (big.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_signature_algorithm_or_nothing() {
        let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 3];
        let mut certificate = vec![0x30, 0x81, 16, 0x30, 2, 5, 0, 0x30, 10, 6, 8];
        certificate.extend(oid);
        certificate.push(0);
        assert_eq!(signature_algorithm(&certificate), Some(&oid[..]));
        assert_eq!(end_point(&certificate).unwrap().len(), 48);
        for cut in 0..certificate.len() - 1 {
            assert_eq!(signature_algorithm(&certificate[..cut]), None);
        }
        // tbs { 7, (), (), (), (), (5) }
        let first = [&[0x30, 18, 0x30, 16, 2, 1, 7][..], &[0x30, 0].repeat(4), &[0x30, 3, 2, 1, 5]].concat();
        assert_eq!(public_key(&first), Some(&[0x30, 3, 2, 1, 5][..]));
        for cut in 0..first.len() {
            assert_eq!(public_key(&first[..cut]), None);
        }
        assert_eq!(der(0x30, &[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1]), None);
    }
}
