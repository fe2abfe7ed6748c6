//! TLS to clients: certificates from files, chosen by the name that the client asks for.
//!
//! A [`ServerConfig`] is made whole or not at all. Whoever accepts a connection takes the newest one, so that a reload drops nobody.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::Millis;
use crate::config::{CertificateFiles, Tls};

/// What the files gave.
#[derive(Debug)]
pub struct Loaded {
    pub config: Arc<ServerConfig>,
    /// A sentence for each certificate that is not valid now.
    pub invalid: Vec<String>,
}

/// Reads the certificates, if there are addresses to use them on. TLS 1.2 and later, session tickets, HTTP/2 and HTTP/1.1 by ALPN.
///
/// # Errors
/// One sentence: a file that can't be read or holds something else, a key that does not belong to its certificate.
pub fn load(tls: &Tls, http2: bool, now: Millis) -> Result<Option<Loaded>, String> {
    if tls.listen.is_empty() {
        return Ok(None);
    }
    if tls.certificates.is_empty() {
        return Err("server.tls.certificates: names none, and TLS is spoken; name at least one {certificate, key}".to_owned());
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut by_name = ByName::default();
    let mut invalid = Vec::new();
    for files in &tls.certificates {
        let key = Arc::new(certified_key(files, &provider)?);
        invalid.extend(by_name.add(files, &key, now)?);
    }
    let failed = |error: rustls::Error| format!("server.tls: can't be used ({error})");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(by_name));
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    let protocols: &[&[u8]] = if http2 {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let config = Arc::new(config);
    Ok(Some(Loaded { config, invalid }))
}

fn certified_key(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let (certificate, key) = (&files.certificate, &files.key);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| {
            sentence(
                certificate,
                &format!("no certificate can be read ({error})"),
            )
        })?;
    if chain.is_empty() {
        let advice = "holds no certificate; write a PEM file that begins with the server's own";
        return Err(sentence(certificate, advice));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| sentence(key, &format!("no private key can be read ({error})")))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => sentence(
            key,
            &format!(
                "is not the key of {}; name the two that belong together",
                certificate.display()
            ),
        ),
        other => sentence(certificate, &format!("can't be used ({other})")),
    })
}

fn sentence(file: &Path, what: &str) -> String {
    format!("server.tls.certificates: {}: {what}", file.display())
}

/// Certificates by the names in them, in lower case; `*.` stands for one label (RFC 6125, section 6.4.3).
#[derive(Debug, Default)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl ByName {
    /// Of two that have a name, the first has it. Gives a sentence if the certificate is not valid now.
    fn add(
        &mut self,
        files: &CertificateFiles,
        key: &Arc<CertifiedKey>,
        now: Millis,
    ) -> Result<Option<String>, String> {
        let unreadable = || sentence(&files.certificate, "is no certificate that can be read");
        let own = key.cert.first().ok_or_else(unreadable)?;
        let (_, own) = X509Certificate::from_der(own).map_err(|_| unreadable())?;
        let alternatives = own.subject_alternative_name().map_err(|_| unreadable())?;
        for name in alternatives
            .iter()
            .flat_map(|names| &names.value.general_names)
        {
            if let GeneralName::DNSName(name) = name {
                let name = name.to_ascii_lowercase();
                self.names.entry(name).or_insert_with(|| key.clone());
            }
        }
        self.first.get_or_insert_with(|| key.clone());
        let (validity, now) = (own.validity(), now / 1000);
        let what = if validity.not_after.timestamp() < now {
            "has expired; renew it"
        } else if validity.not_before.timestamp() > now {
            "is not valid yet; look at this machine's clock"
        } else {
            return Ok(None);
        };
        Ok(Some(sentence(&files.certificate, what)))
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let by_name = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || {
                let (_, parent) = name.split_once('.')?;
                self.names.get(&format!("*.{parent}"))
            };
            self.names.get(&name).or_else(wildcard)
        });
        by_name.or(self.first.as_ref()).cloned()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

#[cfg(test)]
mod tests;
