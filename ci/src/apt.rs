// SPDX-License-Identifier: GPL-2.0-or-later

//! The machine's own apt configuration, read to find the Debian mirror it uses, and an apt with
//! lists of its own for what other releases of Debian have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::paths::Paths;
use crate::stamp;

/// A Debian archive and what its signatures are checked with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Archive {
    uri: String,
    /// A path, a fingerprint or a whole key in deb822 form (later lines start with a space).
    signed_by: Option<String>,
    trusted: Option<String>,
}

/// What a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Packages that can be installed.
    Binary,
    /// Their sources.
    Source,
}

impl Archive {
    /// Where the archive is.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// A deb822 list of the packages of these suites.
    pub(crate) fn list(&self, kind: Kind, suites: &[&str]) -> String {
        // The lists that are named are all that is fetched: others are large.
        let (types, targets) = match kind {
            Kind::Binary => ("deb", "Packages"),
            Kind::Source => ("deb-src", "Sources"),
        };
        let mut text = format!(
            "Types: {types}\nTargets: {targets}\nURIs: {}\nSuites: {}\nComponents: main\n",
            self.uri,
            suites.join(" ")
        );
        for (name, value) in [("Signed-By", &self.signed_by), ("Trusted", &self.trusted)] {
            if let Some(value) = value {
                text += &format!("{name}: {value}\n");
            }
        }
        text
    }
}

/// apt with a list and a state of its own: the machine's configuration is not changed.
pub(crate) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// An apt that knows this list, with its files in a folder of the downloads.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub(crate) fn new(paths: &Paths, folder: &str, list: &str) -> Result<Self> {
        let dir = paths.downloads().join(folder);
        stamp::make_dir(&dir.join("lists/partial"))?;
        stamp::make_dir(&dir.join("cache/archives/partial"))?;
        stamp::write_whole(&dir.join("debian.sources"), list)?;
        let apt = Self { dir };
        let lines = apt
            .settings()
            .map(|(name, value)| format!("{name} \"{value}\";\n"));
        stamp::write_whole(&apt.config(), &lines.concat())?;
        Ok(apt)
    }

    /// A program of apt that uses this list.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.config());
        command
    }

    /// The file with its settings, for `APT_CONFIG`.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("apt.conf")
    }

    fn settings(&self) -> [(&'static str, String); 5] {
        let at = |path: &str| self.dir.join(path).display().to_string();
        [
            ("Dir::Etc::SourceList", at("debian.sources")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State::Lists", at("lists")),
            ("Dir::Cache", at("cache")),
            // Without this, root's downloads are tried as a user who may not write here.
            ("APT::Sandbox::User", "root".into()),
        ]
    }
}

/// The main Debian archive that this machine is configured for, if it is a Debian.
pub(crate) fn configured() -> Option<Archive> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let field = |name: &str| os_release(&release, name);
    if field("ID")? != "debian" {
        return None;
    }
    let codename = field("VERSION_CODENAME").unwrap_or_else(|| "sid".into());
    list_files(Path::new("/etc/apt")).iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        match path.extension()?.to_str()? {
            "sources" => main_archive_deb822(&text, &codename),
            _ => main_archive_one_line(&text, &codename),
        }
    })
}

/// The files that apt reads, in its order.
fn list_files(etc: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|e| e == "list" || e == "sources")
        })
        .collect();
    parts.sort();
    parts.insert(0, etc.join("sources.list"));
    parts
}

fn os_release(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

/// Names under which a machine follows the main archive, besides its code name.
fn is_main_suite(suite: &str, codename: &str) -> bool {
    suite == codename || ["stable", "testing", "unstable", "sid"].contains(&suite)
}

fn main_archive_deb822(text: &str, codename: &str) -> Option<Archive> {
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |text, line| {
            text + if line.trim().is_empty() { "" } else { line } + "\n"
        });
    text.split("\n\n").find_map(|stanza| {
        let words = |name| deb822_field(stanza, name).unwrap_or_default();
        let has = |name, word: &dyn Fn(&str) -> bool| words(name).split_whitespace().any(word);
        let wanted = deb822_field(stanza, "Enabled").is_none_or(|value| value != "no")
            && has("Components", &|word| word == "main")
            && has("Suites", &|word| is_main_suite(word, codename));
        wanted.then(|| Archive {
            uri: words("URIs")
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned(),
            signed_by: deb822_field(stanza, "Signed-By"),
            trusted: deb822_field(stanza, "Trusted"),
        })
    })
}

/// A field's value, with the lines that continue it; names have no case.
fn deb822_field(stanza: &str, name: &str) -> Option<String> {
    let mut lines = stanza.lines().skip_while(|line| {
        !line
            .split_once(':')
            .is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
    });
    let (_, first) = lines.next()?.split_once(':')?;
    let mut value = first.trim().to_owned();
    for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push('\n');
        value.push_str(line);
    }
    Some(value)
}

fn main_archive_one_line(text: &str, codename: &str) -> Option<Archive> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix("-src").unwrap_or(rest);
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let wanted = is_main_suite(suite, codename) && words.any(|word| word == "main");
        wanted.then(|| Archive {
            uri: uri.to_owned(),
            signed_by: one_line_option(options, "signed-by"),
            trusted: one_line_option(options, "trusted"),
        })
    })
}

fn one_line_option(options: &str, name: &str) -> Option<String> {
    options.split_whitespace().find_map(|option| {
        let (key, value) = option.split_once('=')?;
        (key == name).then(|| value.replace(',', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
URIs: https://example.org/other
Suites: bookworm
Components: contrib

Types: deb
# a comment
URIs: http://mirror.example/debian http://second.example/debian
suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
";

    #[test]
    fn the_main_archive_of_deb822() {
        let archive = main_archive_deb822(DEB822, "bookworm").unwrap();
        assert_eq!(archive.uri, "http://mirror.example/debian");
        assert_eq!(
            archive.signed_by.as_deref(),
            Some("/usr/share/keyrings/debian.gpg")
        );
        assert_eq!(main_archive_deb822(DEB822, "trixie"), None);
    }

    #[test]
    fn a_disabled_stanza_does_not_count() {
        let text = "Enabled: no\nTypes: deb\nURIs: http://a/\nSuites: sid\nComponents: main\n";
        assert_eq!(main_archive_deb822(text, "sid"), None);
    }

    #[test]
    fn an_embedded_key_is_kept_whole() {
        let text =
            "URIs: http://a\nSuites: x\nComponents: main\nSigned-By:\n -----BEGIN\n .\n -----END\n";
        let archive = main_archive_deb822(text, "x").unwrap();
        assert_eq!(
            archive.signed_by.as_deref(),
            Some("\n -----BEGIN\n .\n -----END")
        );
    }

    #[test]
    fn the_main_archive_of_one_line_lists() {
        let text = "# deb http://no/ bookworm main\n\
                    deb https://cloud.example/apt cloud-sdk-bookworm main\n\
                    deb-src [arch=amd64 signed-by=/a.gpg] http://m/debian bookworm main contrib\n";
        let archive = main_archive_one_line(text, "bookworm").unwrap();
        assert_eq!(archive.uri, "http://m/debian");
        assert_eq!(archive.signed_by.as_deref(), Some("/a.gpg"));
        assert_eq!(
            main_archive_one_line("deb http://m/ bookworm contrib\n", "bookworm"),
            None
        );
    }

    #[test]
    fn the_list_names_the_suites() {
        let archive = Archive {
            uri: "http://m".into(),
            signed_by: None,
            trusted: Some("yes".into()),
        };
        assert_eq!(
            archive.list(Kind::Source, &["forky", "sid"]),
            "Types: deb-src\nTargets: Sources\nURIs: http://m\nSuites: forky sid\n\
             Components: main\nTrusted: yes\n"
        );
        let binary = archive.list(Kind::Binary, &["sid"]);
        assert!(
            binary.starts_with("Types: deb\nTargets: Packages\n"),
            "{binary}"
        );
    }

    #[test]
    fn os_release_values_may_be_quoted() {
        assert_eq!(
            os_release("A=1\nID=\"debian\"\n", "ID").as_deref(),
            Some("debian")
        );
        assert_eq!(os_release("VERSION_ID=12\n", "ID"), None);
    }
}
