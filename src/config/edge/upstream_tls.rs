//! `tls` of a route: whom we trust as its upstreams, and what we show them of ourselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use super::routes::Protocol;

/// `tls` as it stands in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    /// PEM: the authorities that upstreams must have their certificates from, in place of the public ones.
    pub ca_file: Option<PathBuf>,
    /// PEM: the certificate (and its chain) that we show.
    pub certificate_file: Option<PathBuf>,
    /// PEM: the key of that certificate.
    pub key_file: Option<PathBuf>,
    /// The name that upstreams' certificates must be for; the URL's host when absent.
    pub server_name: Option<String>,
}

/// What was read. Two are equal if their files held the same, so that a reload takes up what was renewed.
#[derive(Debug, Clone)]
pub struct Tls {
    authorities: Option<Vec<CertificateDer<'static>>>,
    certificates: Vec<CertificateDer<'static>>,
    /// The name that upstreams' certificates must be for.
    pub server_name: Option<ServerName<'static>>,
    config: Arc<ClientConfig>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        // A key belongs to its certificate.
        (&self.authorities, &self.certificates, &self.server_name)
            == (&other.authorities, &other.certificates, &other.server_name)
    }
}

impl Eq for Tls {}

impl Tls {
    /// For connections that speak `protocol`.
    pub fn client_config(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = match protocol {
            Protocol::H2 | Protocol::H2c => vec![b"h2".to_vec()],
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
        };
        Arc::new(config)
    }
}

impl RawTls {
    /// Reads and checks the files.
    pub(super) fn load(&self, at: &str, problems: &mut Vec<String>) -> Option<Tls> {
        match self.read() {
            Ok(tls) => Some(tls),
            Err(why) => {
                problems.push(format!("{at}: tls: {why}"));
                None
            }
        }
    }

    fn read(&self) -> Result<Tls, String> {
        let authorities = self.ca_file.as_deref().map(certificates).transpose()?;
        let shown = match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => Some((certificates(certificate)?, private_key(key)?)),
            (None, None) => None,
            _ => {
                return Err(
                    "certificate_file and key_file go together; name both or neither".to_owned(),
                );
            }
        };
        let server_name = self
            .server_name
            .clone()
            .map(ServerName::try_from)
            .transpose();
        let server_name = server_name.map_err(|_| "server_name is no host name".to_owned())?;
        let certificates = shown
            .as_ref()
            .map(|(chain, _)| chain.clone())
            .unwrap_or_default();
        let config = config(authorities.as_deref(), shown)?;
        Ok(Tls {
            authorities,
            certificates,
            server_name,
            config: Arc::new(config),
        })
    }
}

fn config(
    authorities: Option<&[CertificateDer<'static>]>,
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(authorities) => {
            for authority in authorities {
                roots.add(authority.clone()).map_err(|error| {
                    format!("ca_file holds a certificate that can't be used: {error}")
                })?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match shown {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("certificate_file and key_file don't fit together: {error}")),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The certificates in a PEM file, at least one.
///
/// # Errors
/// One sentence that names the file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: &dyn std::fmt::Display| {
        format!(
            "{} can't be read as PEM certificates: {error}",
            path.display()
        )
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| unreadable(&error))?
        .collect();
    let found = found.map_err(|error| unreadable(&error))?;
    match found.is_empty() {
        true => Err(format!("{} holds no certificate", path.display())),
        false => Ok(found),
    }
}

/// The private key in a PEM file.
///
/// # Errors
/// One sentence that names the file.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        format!(
            "{} can't be read as a PEM private key: {error}",
            path.display()
        )
    })
}
