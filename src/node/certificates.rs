//! Development certificates: a certification authority and a server certificate that it signs, for trying Bennu out without
//! a public authority. Nothing outside the machines that are told to will trust them.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::base::Domain;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the authority is valid.
const AUTHORITY_DAYS: u32 = 3650;

/// How long a server certificate is valid: what browsers and public authorities agreed on.
const SERVER_DAYS: u32 = 397;

/// PEM texts of a development authority and of a server certificate that it signed. The authority's key is not kept:
/// nobody can make more certificates with it.
pub struct DevelopmentCertificates {
    /// The authority's certificate, which clients have to trust.
    pub authority: String,
    /// The server's certificate chain.
    pub server_chain: String,
    /// The server's private key (PKCS #8). To be written for its owner alone.
    pub server_key: zeroize::Zeroizing<String>,
}

/// Makes an authority and a server certificate for `domain`, valid from a day before `now`.
pub fn generate(domain: &Domain, now: SystemTime) -> Result<DevelopmentCertificates, rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut authority = params(&format!("Bennu development CA for {domain}"), Vec::new(), now, AUTHORITY_DAYS)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let server_key = KeyPair::generate()?;
    let mut server = params(domain.as_str(), vec![domain.to_string()], now, SERVER_DAYS)?;
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_certificate = server.signed_by(&server_key, &issuer)?;

    Ok(DevelopmentCertificates {
        authority: authority_certificate.pem(),
        server_chain: server_certificate.pem(),
        server_key: server_key.serialize_pem().into(),
    })
}

/// What both certificates have in common.
fn params(name: &str, sans: Vec<String>, now: SystemTime, days: u32) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(sans)?;
    params.distinguished_name = DistinguishedName::new();
    // A common name has at most 64 characters (RFC 5280, upper bounds).
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

    fn verify(made: &DevelopmentCertificates, name: &str, at: SystemTime) -> bool {
        let authority = CertificateDer::from_pem_slice(made.authority.as_bytes()).unwrap();
        let anchor = webpki::anchor_from_trusted_cert(&authority).unwrap();
        let server = CertificateDer::from_pem_slice(made.server_chain.as_bytes()).unwrap();
        let server = webpki::EndEntityCert::try_from(&server).unwrap();
        let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let usage = webpki::KeyUsage::server_auth();
        let name = ServerName::try_from(name).unwrap();
        server.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], at, usage, None, None).is_ok()
            && server.verify_is_valid_for_subject_name(&name).is_ok()
    }

    #[test]
    fn the_server_certificate_is_for_its_domain_and_its_time_only() {
        let now = SystemTime::now();
        let made = generate(&"a.test".parse().unwrap(), now).unwrap();
        assert!(verify(&made, "a.test", now));
        assert!(verify(&made, "a.test", now + DAY * 396));
        assert!(!verify(&made, "a.test", now + DAY * 398));
        assert!(!verify(&made, "b.test", now));
        assert!(!verify(&made, "x.a.test", now));
        assert!(PrivateKeyDer::from_pem_slice(made.server_key.as_bytes()).is_ok());
    }

    #[test]
    fn the_longest_domain_gets_a_certificate() {
        let label = "a".repeat(61);
        let name = format!("{label}.{label}.{label}.{label}.test");
        let made = generate(&name.parse().unwrap(), SystemTime::now()).unwrap();
        assert!(verify(&made, &name, SystemTime::now()));
    }
}
