//! What a dashboard proves itself with to browsers: a certificate of its own, kept for the next start, so
//! that a browser that was told to trust it asks once. Owns its file and when there is a new one.

use super::private_file;
use super::state_dir::StateDir;
use crate::base::error::Result;
use crate::protocol::credentials::{self, PAGE_VALID};
use rustls::ServerConfig;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A certificate that is valid for no longer than this is not begun with: clusters live for weeks.
const LEFT_MIN: Duration = Duration::from_secs(60 * 24 * 3600);

/// The settings of a server for browsers, by one of these names and addresses.
///
/// # Errors
/// If there can be no certificate.
pub fn config(names: &[String]) -> Result<Arc<ServerConfig>> {
    let directory = StateDir::of_user().map(|state| state.dashboards());
    let pem = match directory.and_then(|directory| kept(&directory, names, SystemTime::now())) {
        Ok(pem) => pem,
        Err(e) => {
            tracing::warn!("the dashboard's certificate is not kept: {}", e.message);
            credentials::page_pem(names)?
        }
    };
    credentials::page_config(&pem)
}

/// The certificate for these names and its key, as they are kept in a directory; new ones if they are not, or
/// are of no use for long.
fn kept(directory: &Path, names: &[String], now: SystemTime) -> Result<String> {
    private_file::make_directory(directory)?;
    let path = directory.join(format!("{}.pem", file_name(names)));
    let made = std::fs::metadata(&path).and_then(|meta| meta.modified()).ok();
    let age = made.map(|made| now.duration_since(made).unwrap_or_default());
    if age.is_some_and(|age| age + LEFT_MIN < PAGE_VALID)
        && let Ok(text) = private_file::read(&path)
        && let Ok(pem) = String::from_utf8(text)
        && credentials::page_config(&pem).is_ok()
    {
        return Ok(pem);
    }
    let pem = credentials::page_pem(names)?;
    private_file::write(&path, pem.as_bytes())?;
    Ok(pem)
}

/// A file for each set of names: other hosts share the directory.
fn file_name(names: &[String]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
    let name: String = names.join("+").chars().map(plain).take(200).collect();
    name.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_kept_for_the_next_start_and_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state");
        let names = |host: &str| vec![host.to_owned(), "localhost".to_owned()];
        let now = SystemTime::now();
        let first = kept(&directory, &names("10.1.2.3"), now).unwrap();
        assert_eq!(kept(&directory, &names("10.1.2.3"), now).unwrap(), first);
        assert_ne!(kept(&directory, &names("fe80::1"), now).unwrap(), first);
        let path = directory.join("10.1.2.3_localhost.pem");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&directory)), (0o600, 0o700));
        // What is damaged, was readable for others, or is over before long is made anew.
        std::fs::write(&path, "nonsense").unwrap();
        let second = kept(&directory, &names("10.1.2.3"), now).unwrap();
        assert!(second != first && second.contains("PRIVATE KEY"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let third = kept(&directory, &names("10.1.2.3"), now).unwrap();
        assert!(third != second && mode(&path) == 0o600);
        let late = now + PAGE_VALID - LEFT_MIN / 2;
        assert_ne!(kept(&directory, &names("10.1.2.3"), late).unwrap(), third);
        assert!(kept(&home.path().join("state/10.1.2.3_localhost.pem"), &names("a"), now).is_err());
        assert_eq!(file_name(&["../../x".to_owned()]), "_.._x");
    }
}
