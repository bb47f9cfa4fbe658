//! A certificate and its key from two PEM files, which are read again when they change.
//!
//! They are compared by their contents: whatever renews certificates may replace them, write into them, or turn a symbolic
//! link. A pair that can't be used leaves the old one in use.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::{TlsError, Warning, provider};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The most that is read of a file, in bytes; chains of certificates take a few thousand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How long before its end a certificate is complained about: whatever renews it should have done so by then.
const ENDS_SOON: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

const CERTIFICATE: &str = "http.tls_certificate";
const KEY: &str = "http.tls_key";

/// What the two files hold.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What is done about what the files hold now.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// They are as they were.
    Same,
    /// There is a new pair, which is used from now on.
    New,
    /// They can't be used, which may be because they are just being written.
    Unsure,
    /// They can't be used, and that is new. The reason.
    Broken(String),
}

/// The pair in use, and where it comes from.
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    in_use: RwLock<Arc<CertifiedKey>>,
    seen: Mutex<Seen>,
}

/// What was seen in the files.
struct Seen {
    /// Of the pair in use.
    used: Contents,
    /// When that one ends.
    ends: Option<jiff::Timestamp>,
    /// Why the files can't be used, as of the last look.
    fault: Option<String>,
    /// Whether that fault was told.
    is_told: bool,
}

impl Files {
    /// Reads the files, which must be usable.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let used = read(certificate, key)?;
        let (pair, ends) = parse(certificate, key, &used)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            in_use: RwLock::new(Arc::new(pair)),
            seen: Mutex::new(Seen { used, ends, fault: None, is_told: false }),
        })
    }

    /// Looks at the files, for ever.
    pub(super) async fn keep(self: Arc<Self>, warning: &Warning) {
        loop {
            warning.set(self.end_warning(jiff::Timestamp::now()).or_else(|| self.fault_warning()));
            tokio::time::sleep(LOOK_EVERY).await;
            let files = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || files.look()).await else { continue };
            match outcome {
                Outcome::Same | Outcome::Unsure => {}
                Outcome::New => {
                    tracing::info!(path = %self.certificate.display(), "new connections get the new certificate");
                }
                Outcome::Broken(reason) => {
                    tracing::warn!(reason, "the new certificate can't be used; the old one stays in use");
                }
            }
        }
    }

    /// Reads the files and uses what is new in them.
    fn look(&self) -> Outcome {
        let found = read(&self.certificate, &self.key).and_then(|found| {
            if found == self.seen().used {
                return Ok(None);
            }
            let (pair, ends) = parse(&self.certificate, &self.key, &found)?;
            Ok(Some((found, pair, ends)))
        });
        let mut seen = self.seen();
        match found {
            Ok(None) => {
                (seen.fault, seen.is_told) = (None, false);
                Outcome::Same
            }
            Ok(Some((found, pair, ends))) => {
                *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                *seen = Seen { used: found, ends, fault: None, is_told: false };
                Outcome::New
            }
            Err(error) => {
                let fault = Some(error.to_string());
                // Two files can't change at the same instant: only what stays so is a fault.
                if seen.fault != fault {
                    (seen.fault, seen.is_told) = (fault, false);
                    return Outcome::Unsure;
                }
                if std::mem::replace(&mut seen.is_told, true) {
                    return Outcome::Same;
                }
                Outcome::Broken(error.to_string())
            }
        }
    }

    /// What is wrong with the files, once that is sure.
    fn fault_warning(&self) -> Option<String> {
        let seen = self.seen();
        let fault = seen.fault.as_ref().filter(|_| seen.is_told)?;
        Some(format!("{fault}; the certificate that was read before stays in use until the process ends"))
    }

    /// That the certificate in use ends soon, or has ended.
    fn end_warning(&self, now: jiff::Timestamp) -> Option<String> {
        let ends = self.seen().ends?;
        let path = self.certificate.display();
        if ends <= now {
            return Some(format!("the certificate in {path} has ended at {ends:.0}, so clients refuse it; renew it"));
        }
        (ends.duration_since(now) < ENDS_SOON).then(|| format!("the certificate in {path} ends at {ends:.0}; renew it"))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is a secret.
        formatter.debug_struct("Files").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Contents, TlsError> {
    let read = |option, path: &Path| -> Result<Vec<u8>, TlsError> {
        let mut bytes = Vec::new();
        let outcome = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        let outcome = match outcome {
            Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => Err(io::ErrorKind::FileTooLarge.into()),
            outcome => outcome,
        };
        outcome.map_err(|source| TlsError::Unreadable { key: option, path: path.to_owned(), source })?;
        Ok(bytes)
    };
    Ok(Contents { certificate: read(CERTIFICATE, certificate)?, key: read(KEY, key)? })
}

/// Makes a pair of what the files hold, and says when the certificate ends.
fn parse(
    certificate: &Path,
    key: &Path,
    contents: &Contents,
) -> Result<(CertifiedKey, Option<jiff::Timestamp>), TlsError> {
    let unusable = |option, path: &Path, reason| TlsError::Unusable { key: option, path: path.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(&contents.certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unusable(CERTIFICATE, certificate, error.to_string()))?;
    let Some(first) = chain.first() else {
        let reason = "it has no certificate; it must hold the certificate and those that vouch for it, as PEM";
        return Err(unusable(CERTIFICATE, certificate, reason.to_owned()));
    };
    let ends = ends(first).map_err(|reason| unusable(CERTIFICATE, certificate, reason))?;
    let private = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
        unusable(KEY, key, format!("{error}; it must hold the private key of the certificate, unencrypted, as PEM"))
    })?;
    let pair = CertifiedKey::from_der(chain, private, &provider())
        .map_err(|error| unusable(KEY, key, format!("{error}; it must hold the key of {}", certificate.display())))?;
    Ok((pair, ends))
}

/// When a certificate ends; none for times that jiff doesn't know.
fn ends(certificate: &CertificateDer<'_>) -> Result<Option<jiff::Timestamp>, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| format!("its first certificate is none ({error})"))?;
    Ok(jiff::Timestamp::from_second(parsed.validity().not_after.timestamp()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs;

    struct Pair {
        certificate: String,
        key: String,
    }

    fn pair(days: i64) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["pins.example.org".to_owned()]).unwrap();
        let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24);
        let date = ends.to_zoned(jiff::tz::TimeZone::UTC).date();
        let part = |part: i8| u8::try_from(part).unwrap();
        parameters.not_after = rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()));
        let certificate = parameters.self_signed(&key).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    struct Directory(tempfile::TempDir);

    impl Directory {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn paths(&self) -> [PathBuf; 2] {
            ["certificate.pem", "key.pem"].map(|name| self.0.path().join(name))
        }

        fn write(&self, certificate: &str, key: &str) {
            let [certificate_path, key_path] = self.paths();
            fs::write(certificate_path, certificate).unwrap();
            fs::write(key_path, key).unwrap();
        }

        fn open(&self) -> Result<Files, TlsError> {
            let [certificate, key] = self.paths();
            Files::open(&certificate, &key)
        }
    }

    fn shown(files: &Files) -> Vec<u8> {
        files.in_use.read().unwrap().cert[0].to_vec()
    }

    #[test]
    fn a_new_pair_is_used_and_a_broken_one_leaves_the_old_one_in_use() {
        let directory = Directory::new();
        let [first, second] = [pair(90), pair(90)];
        directory.write(&first.certificate, &first.key);
        let files = directory.open().unwrap();
        let old = shown(&files);
        assert_eq!(files.look(), Outcome::Same);

        // The certificate is there before its key.
        directory.write(&second.certificate, &first.key);
        assert_eq!(files.look(), Outcome::Unsure);
        assert_eq!(files.fault_warning(), None);
        let Outcome::Broken(reason) = files.look() else { panic!("it is no fault") };
        assert!(reason.contains("http.tls_key"), "{reason}");
        assert_eq!(files.look(), Outcome::Same, "it is told once");
        assert!(files.fault_warning().unwrap().contains(&reason));
        assert_eq!(shown(&files), old);

        directory.write(&second.certificate, &second.key);
        assert_eq!(files.look(), Outcome::New);
        assert_eq!(files.fault_warning(), None);
        assert_ne!(shown(&files), old);

        fs::remove_file(&directory.paths()[0]).unwrap();
        assert_eq!(files.look(), Outcome::Unsure);
        assert!(matches!(files.look(), Outcome::Broken(_)));
        directory.write(&second.certificate, &second.key);
        assert_eq!(files.look(), Outcome::Same);
        assert_eq!(files.fault_warning(), None);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_key() {
        let directory = Directory::new();
        let [first, second] = [pair(90), pair(90)];
        let refusal = || directory.open().unwrap_err().to_string();
        assert!(refusal().contains("http.tls_certificate"), "{}", refusal());
        for (certificate, key, expected) in [
            ("", first.key.as_str(), "http.tls_certificate"),
            ("hello", &first.key, "http.tls_certificate"),
            (&first.key, &first.key, "http.tls_certificate"),
            ("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", &first.key, "http.tls_certificate"),
            (&first.certificate, "", "http.tls_key"),
            (&first.certificate, &first.certificate, "http.tls_key"),
            (&first.certificate, &second.key, "http.tls_key"),
        ] {
            directory.write(certificate, key);
            assert!(refusal().contains(expected), "{}", refusal());
        }
        directory.write(&"x".repeat(1024 * 1024 + 1), &first.key);
        assert!(refusal().contains("http.tls_certificate"), "{}", refusal());
    }

    #[test]
    fn the_end_of_a_certificate_is_told_in_time() {
        for (days, expected) in [(90, None), (3, Some("ends at")), (-3, Some("has ended"))] {
            let directory = Directory::new();
            let pair = pair(days);
            directory.write(&pair.certificate, &pair.key);
            let warning = directory.open().unwrap().end_warning(jiff::Timestamp::now());
            match expected {
                None => assert_eq!(warning, None),
                Some(expected) => assert!(warning.unwrap().contains(expected)),
            }
        }
    }
}
