//! Which model files there are and which one is to be the operational model.
//!
//! Two folders: the image's, whose manifest names every file, and the machine's, into which an
//! operator puts any GGUF file. Scanning reads headers only; whether a file is what it should be is
//! found out when it is loaded (`trust`).

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aios_gguf::{Header, Manifest, manifest};

use super::trust;

/// Files that a models folder has at most; more are not looked at.
const MAX_FILES: usize = 256;

/// The two folders.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The image's.
    pub image: PathBuf,
    /// The machine's.
    pub machine: PathBuf,
}

/// Where a model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The image carries it.
    Image,
    /// Somebody put it on this machine.
    Machine,
}

/// The hash that a file must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The manifest says it.
    Manifest(String),
    /// It had this one when it was first used.
    FirstUse(String),
    /// It was never used.
    Unknown,
}

impl Expected {
    /// The hash, or empty.
    #[must_use]
    pub fn sha256(&self) -> &str {
        match self {
            Self::Manifest(hash) | Self::FirstUse(hash) => hash,
            Self::Unknown => "",
        }
    }
}

/// A model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is called: by its manifest, or by its file.
    pub name: String,
    /// The file name in its folder.
    pub file: String,
    /// The whole path.
    pub path: PathBuf,
    /// Which folder.
    pub origin: Origin,
    /// Bytes.
    pub size: u64,
    /// The hash that it must have.
    pub expected: Expected,
    /// False for a stand-in.
    pub trained: bool,
    /// Whether it may become operational by itself.
    pub operational: bool,
    /// Weights, from the header.
    pub parameters: u64,
    /// Context that it was made for, from the header.
    pub context_tokens: u32,
    /// Why it cannot be used, as far as that is known without loading it.
    pub problem: Option<String>,
}

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Every model file, the machine's first, then by name.
    pub entries: Vec<Entry>,
    /// What is wrong with a folder as a whole.
    pub problems: Vec<String>,
}

impl Catalog {
    /// Looks into both folders.
    #[must_use]
    pub fn scan(folders: &Folders) -> Self {
        let mut catalog = Self::default();
        catalog.scan_folder(&folders.machine, Origin::Machine);
        catalog.scan_folder(&folders.image, Origin::Image);
        // A name must mean one model: the machine's hides the image's of the same name.
        let mut names = BTreeSet::new();
        for entry in &mut catalog.entries {
            if !names.insert(entry.name.clone()) {
                entry.name = format!("{} ({})", entry.name, entry.path.display());
            }
        }
        catalog
    }

    /// The model of that name, or of that file name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let by = |matches: fn(&Entry, &str) -> bool| {
            self.entries.iter().find(|entry| matches(entry, name))
        };
        by(|entry, name| entry.name == name).or_else(|| by(|entry, name| entry.file == name))
    }

    /// The models to try as the operational one, in order: the configured one, then the machine's
    /// trained ones by size, then the image's.
    #[must_use]
    pub fn candidates(&self, configured: &str) -> Vec<&Entry> {
        let mut order: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.operational || self.is_configured(entry, configured))
            .collect();
        order.sort_by_key(|entry| {
            std::cmp::Reverse((
                self.is_configured(entry, configured),
                entry.trained,
                entry.origin,
                entry.size,
            ))
        });
        order
    }

    fn is_configured(&self, entry: &Entry, configured: &str) -> bool {
        !configured.is_empty() && self.find(configured).is_some_and(|found| found == entry)
    }

    fn scan_folder(&mut self, folder: &Path, origin: Origin) {
        let files = match model_files(folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.problems
                    .push(format!("cannot look into {}: {error}", folder.display()));
                return;
            }
        };
        let manifest = optional_manifest(&folder.join(manifest::FILE_NAME));
        let first_uses = match origin {
            Origin::Image => Ok(Manifest::default()),
            Origin::Machine => optional_manifest(&folder.join(trust::FIRST_USES)),
        };
        let (manifest, first_uses, folder_problem) = match (manifest, first_uses) {
            (Ok(manifest), Ok(first_uses)) => (manifest, first_uses, None),
            (Err(error), _) | (_, Err(error)) => {
                // Without knowing the hashes, nothing of this folder is to be believed.
                self.problems.push(error.clone());
                (Manifest::default(), Manifest::default(), Some(error))
            }
        };
        for file in files {
            let mut entry = describe(folder, origin, &file, &manifest, &first_uses);
            if folder_problem.is_some() {
                entry.problem.clone_from(&folder_problem);
            }
            self.entries.push(entry);
        }
        for missing in &manifest.models {
            if !self
                .entries
                .iter()
                .any(|entry| entry.origin == origin && entry.file == missing.file)
            {
                self.problems.push(format!(
                    "{} names {:?}, which is not there",
                    folder.join(manifest::FILE_NAME).display(),
                    missing.file
                ));
            }
        }
    }
}

fn model_files(folder: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)?.take(MAX_FILES) {
        let name = entry?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".gguf")) {
            files.push(name.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

fn optional_manifest(path: &Path) -> Result<Manifest, String> {
    if !path.exists() {
        return Ok(Manifest::default());
    }
    aios_config::load(path).map_err(|error| error.to_string())
}

/// Opens a model file for reading: a regular file, not a link to one.
///
/// # Errors
/// What the system says, or that it is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => {
                io::Error::other("it is a symbolic link; put the file itself here")
            }
            _ => error,
        })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

fn describe(
    folder: &Path,
    origin: Origin,
    file: &str,
    manifest: &Manifest,
    first_uses: &Manifest,
) -> Entry {
    let path = folder.join(file);
    let listed = manifest.entry(file);
    let stem = file.strip_suffix(".gguf").unwrap_or(file);
    let expected = match (listed, first_uses.entry(file)) {
        (Some(listed), _) => Expected::Manifest(listed.sha256.to_ascii_lowercase()),
        (None, Some(used)) => Expected::FirstUse(used.sha256.to_ascii_lowercase()),
        (None, None) => Expected::Unknown,
    };
    let mut entry = Entry {
        name: listed
            .map(|listed| listed.name.as_str())
            .filter(|name| !name.is_empty())
            .unwrap_or(stem)
            .to_owned(),
        file: file.to_owned(),
        origin,
        size: 0,
        trained: listed.is_none_or(|listed| listed.trained),
        operational: listed.is_none_or(|listed| listed.operational),
        parameters: 0,
        context_tokens: 0,
        problem: None,
        expected,
        path,
    };
    if origin == Origin::Image && listed.is_none() {
        entry.problem = Some("it is not in the image's manifest".to_owned());
    }
    let header = open(&entry.path)
        .map_err(|error| error.to_string())
        .and_then(|file| {
            entry.size = file.metadata().map_or(0, |metadata| metadata.len());
            Header::from_file(file).map_err(|error| error.to_string())
        });
    match header {
        Ok(header) => {
            entry.parameters = header.parameters();
            entry.context_tokens = u32::try_from(header.context_tokens()).unwrap_or(u32::MAX);
            if header.embeds_only() {
                entry.operational = false;
            }
        }
        Err(error) => entry.problem = entry.problem.or(Some(error)),
    }
    entry
}

#[cfg(test)]
mod tests {
    use aios_gguf::untrained;

    use super::*;

    fn folders(root: &Path) -> Folders {
        let folders = Folders {
            image: root.join("image"),
            machine: root.join("machine"),
        };
        fs::create_dir_all(&folders.machine).unwrap();
        untrained::write(&folders.image).unwrap();
        folders
    }

    fn names(entries: &[&Entry]) -> Vec<String> {
        entries.iter().map(|entry| entry.file.clone()).collect()
    }

    #[test]
    fn the_largest_trained_model_of_the_machine_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let folders = folders(root.path());
        let bytes = untrained::model().unwrap();
        let mut larger = bytes.clone();
        larger.extend([0; 64]);
        fs::write(folders.machine.join("small.gguf"), &bytes).unwrap();
        fs::write(folders.machine.join("large.gguf"), &larger).unwrap();
        let catalog = Catalog::scan(&folders);
        assert_eq!(catalog.problems, Vec::<String>::new());
        assert_eq!(
            names(&catalog.candidates("")),
            ["large.gguf", "small.gguf", untrained::FILE_NAME]
        );
        assert_eq!(names(&catalog.candidates("small.gguf"))[0], "small.gguf");
        assert_eq!(
            names(&catalog.candidates(untrained::NAME))[0],
            untrained::FILE_NAME
        );
        assert_eq!(catalog.find("small").unwrap().expected, Expected::Unknown);
    }

    #[test]
    fn a_manifest_that_says_untrained_or_not_operational_is_believed() {
        let root = tempfile::tempdir().unwrap();
        let folders = folders(root.path());
        let bytes = untrained::model().unwrap();
        fs::write(folders.machine.join("a.gguf"), &bytes).unwrap();
        fs::write(
            folders.machine.join("manifest.toml"),
            "[[model]]\nfile = \"a.gguf\"\nsha256 = \"AB\"\noperational = false\n",
        )
        .unwrap();
        let catalog = Catalog::scan(&folders);
        assert_eq!(names(&catalog.candidates("")), [untrained::FILE_NAME]);
        assert_eq!(
            catalog.find("a").unwrap().expected,
            Expected::Manifest("ab".to_owned())
        );
        assert_eq!(names(&catalog.candidates("a.gguf"))[0], "a.gguf");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let root = tempfile::tempdir().unwrap();
        let folders = folders(root.path());
        fs::write(folders.machine.join("junk.gguf"), b"not a model").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folders.machine.join("link.gguf")).unwrap();
        fs::write(
            folders.image.join("extra.gguf"),
            untrained::model().unwrap(),
        )
        .unwrap();
        let catalog = Catalog::scan(&folders);
        let problem = |name: &str| catalog.find(name).unwrap().problem.clone().unwrap();
        assert!(problem("junk").contains("GGUF"), "{}", problem("junk"));
        assert!(problem("link").contains("symbolic link"));
        assert!(problem("extra").contains("manifest"));
    }

    #[test]
    fn a_broken_manifest_condemns_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let folders = folders(root.path());
        fs::write(folders.machine.join("a.gguf"), untrained::model().unwrap()).unwrap();
        fs::write(folders.machine.join("manifest.toml"), "[[modell]]\n").unwrap();
        let catalog = Catalog::scan(&folders);
        assert!(
            catalog.problems[0].contains("did you mean"),
            "{:?}",
            catalog.problems
        );
        assert!(catalog.find("a").unwrap().problem.is_some());
        assert!(catalog.find(untrained::NAME).unwrap().problem.is_none());
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let none = Folders {
            image: root.path().join("a"),
            machine: root.path().join("b"),
        };
        assert_eq!(Catalog::scan(&none), Catalog::default());
    }
}
