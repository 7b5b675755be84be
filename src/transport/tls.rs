//! TLS 1.3 as Bennu uses it: the provider and its key exchanges, server and client configurations, the verifier of
//! connecting homeservers, and the channel binding (`wire-spec/`, "Transport").

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, InconsistentKeys, RootCertStore, SignatureScheme,
    client::{Resumption, danger::HandshakeSignatureValid},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ServerSessionMemoryCache,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};

use super::TlsError;
use crate::base::{Clock, Domain, SystemClock, Timestamp};

/// The protocol that is negotiated.
pub const ALPN: &[u8] = b"bennu/1";

/// Label of the channel binding in the TLS exporter (RFC 8446 section 7.5); the context is empty.
pub const BINDING_LABEL: &[u8] = b"EXPORTER-Bennu-1.0-Channel-Binding";

/// Sessions a server remembers for resumption.
const SERVER_SESSIONS: usize = 4096;

/// Sessions a client context remembers for resumption.
const CLIENT_SESSIONS: usize = 64;

/// A certificate chain, leaf first, and its private key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From PEM: one or more certificates, and the private key of the first.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError("there is no private key in the file, or one under a password".into()),
            error => TlsError(format!("private key: {error}")),
        })?;
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError("the private key is not that of the certificate".into())
            }
            error => error.into(),
        })?;
        Ok(Self { chain, key })
    }

    /// The certificate itself.
    pub(super) fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Checks that the certificate names `domain`: what every client will do.
    pub fn check_name(&self, domain: &Domain) -> Result<(), TlsError> {
        let unfit = |why: String| TlsError(format!("it is not a certificate for {domain}: {why}"));
        let leaf = self.chain.first().ok_or_else(|| unfit("there is none".into()))?;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| unfit(error.to_string()))?;
        let name = ServerName::try_from(domain.as_str()).map_err(|error| unfit(error.to_string()))?;
        leaf.verify_is_valid_for_subject_name(&name).map_err(|error| unfit(error.to_string()))
    }
}

impl Identity {
    /// Checks that whoever trusts `roots` will take the chain at a time.
    ///
    /// # Errors
    /// [`TlsError`] says why not.
    pub fn check_chain(&self, roots: &Arc<RootCertStore>, at: Timestamp) -> Result<(), TlsError> {
        let (leaf, intermediates) = self.chain.split_first().ok_or_else(|| TlsError("there is none".into()))?;
        let verifier = PeerVerifier::new(roots.clone(), Arc::new(SystemClock));
        verifier.domains(leaf, intermediates, unix_time(at))?;
        Ok(())
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// The certificates in a PEM file; at least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError("no certificate in the file".into())),
        Err(error) => Err(TlsError(format!("certificate: {error}"))),
    }
}

/// Where the public certification authorities come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// From the platform, whose operator can change them.
    Platform,
    /// From those that Mozilla trusted when this was built: the platform has none.
    BuiltIn,
}

impl std::fmt::Display for RootSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Platform => "the platform's",
            Self::BuiltIn => "those built in, as the platform has none",
        })
    }
}

/// The certification authorities that are trusted: the public ones and those that were configured. The platform's are read
/// from its files, anew each time.
///
/// # Errors
/// [`TlsError`] if one that is configured is not usable as an authority.
pub fn roots(configured: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, TlsError> {
    roots_and_source(configured).map(|(roots, _)| roots)
}

/// As [`roots`], and where the public ones come from.
///
/// # Errors
/// As [`roots`].
pub fn roots_and_source(configured: &[CertificateDer<'_>]) -> Result<(Arc<RootCertStore>, RootSource), TlsError> {
    let (mut roots, source) = public_roots(rustls_native_certs::load_native_certs().certs);
    for certificate in configured {
        roots.add(certificate.clone().into_owned())?;
    }
    Ok((Arc::new(roots), source))
}

/// Those of the platform that are usable; if there is none, those built in.
pub(super) fn public_roots(platform: Vec<CertificateDer<'static>>) -> (RootCertStore, RootSource) {
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(platform) {
        (0, _) => (RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, RootSource::BuiltIn),
        _ => (roots, RootSource::Platform),
    }
}

/// aws-lc-rs, whatever the process's default is, with the hybrid post-quantum key exchange first.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// The server side: shows `identity`, and has the certificate of a connecting homeserver checked, if it shows one. Sessions
/// are remembered in memory, so they end with the configuration.
pub(super) fn server_config(identity: Identity, peers: Arc<PeerVerifier>) -> Result<rustls::ServerConfig, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(peers)
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SERVER_SESSIONS);
    Ok(config)
}

/// The client side, with a session store of its own. A homeserver shows its `identity`.
pub fn client_config(roots: Arc<RootCertStore>, identity: Option<Identity>) -> Result<rustls::ClientConfig, TlsError> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    Ok(config)
}

/// The clock that certificates are valid by.
pub(super) struct Time(pub(super) Arc<dyn Clock>);

impl Time {
    fn now(&self) -> UnixTime {
        unix_time(self.0.now())
    }
}

fn unix_time(time: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.seconds()))
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

/// Checks the certificates of connecting homeservers. They are server certificates, which is what public authorities
/// issue, so the ordinary verifier of client certificates will not do.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    time: Time,
}

impl PeerVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, clock: Arc<dyn Clock>) -> Self {
        Self { roots, provider: provider(), time: Time(clock) }
    }

    /// The home domains that a chain proves now: at least one.
    pub(super) fn domains_now(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Vec<Domain>, rustls::Error> {
        self.domains(leaf, intermediates, self.time.now())
    }

    /// The home domains that a chain proves at a time: at least one.
    pub(super) fn domains(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<Domain>, rustls::Error> {
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(refused)?;
        leaf.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            &self.roots.roots,
            intermediates,
            now,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(refused)?;
        // Wildcards are no domains: a homeserver has one home domain, not all below a name.
        let domains: Vec<Domain> =
            leaf.valid_dns_names().filter_map(|name| name.to_ascii_lowercase().parse().ok()).collect();
        if domains.is_empty() {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(domains)
    }
}

fn refused(error: webpki::Error) -> rustls::Error {
    use webpki::Error::{BadDer, CertExpired, CertNotValidYet, UnknownIssuer};
    match error {
        BadDer => CertificateError::BadEncoding.into(),
        CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        CertExpired { .. } => CertificateError::Expired.into(),
        UnknownIssuer => CertificateError::UnknownIssuer.into(),
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))).into(),
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // All public authorities would be 15 kB in every handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.domains_now(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificates that the peer has shown, leaf first; none if it showed none.
pub(super) fn peer_chain(connection: &quinn::Connection) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    let Some(identity) = connection.peer_identity() else { return Ok(Vec::new()) };
    let chain = identity.downcast().map_err(|_| rustls::Error::General("not a certificate chain".into()))?;
    Ok(*chain)
}

/// The channel binding of an established connection.
pub(super) fn binding(connection: &quinn::Connection) -> Result<[u8; 32], TlsError> {
    let mut binding = [0; 32];
    connection
        .export_keying_material(&mut binding, BINDING_LABEL, b"")
        .map_err(|_| TlsError("the exporter failed".into()))?;
    Ok(binding)
}
