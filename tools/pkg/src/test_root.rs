//! The real apt and dpkg on a root of their own: an empty dpkg database, and a package source of
//! `.deb` files that the test builds. Nothing of the machine is touched.

use std::{fs, path::Path, process::Command, time::Duration};

use aios_tool_api::{BlobStore, Context};
use sha2::{Digest as _, Sha256};

use crate::Apt;

pub(crate) struct TestRoot {
    dir: tempfile::TempDir,
}

/// A package to build: `name`, `version`, further lines of its control file, and its files.
pub(crate) struct Deb<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) control: &'a str,
    pub(crate) files: &'a [(&'a str, &'a str)],
}

impl TestRoot {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/sources.list.d",
            "etc/apt/trusted.gpg.d",
            "run",
            "source",
            "var/cache/apt/archives/partial",
            "var/lib/apt/lists/partial",
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "var/log/apt",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
        fs::write(root.join("source/Packages"), "").unwrap();
        let source = format!("deb [trusted=yes] file:{}/source ./\n", root.display());
        fs::write(root.join("etc/apt/sources.list"), source).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn apt(&self) -> Apt {
        let root = self.path().display();
        let apt_options = [
            format!("Dir={root}"),
            format!("Dir::State::status={root}/var/lib/dpkg/status"),
            format!("Dpkg::Options::=--root={root}"),
            format!("Dpkg::Options::=--log={root}/var/log/dpkg.log"),
            // The folder is the test's own; the account that apt changes to cannot read it.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Apt {
            etc: self.path().join("etc/apt"),
            lists: self.path().join("var/lib/apt/lists"),
            apt_options: apt_options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option])
                .collect(),
            dpkg_options: vec![format!("--root={root}")],
            ..Apt::default()
        }
    }

    pub(crate) fn context(&self) -> Context {
        let blobs = BlobStore::new(self.path().join("blobs"));
        let mut context = Context::new(blobs, Duration::from_secs(60));
        context.run_dir = self.path().join("run");
        context.root = self.path().to_owned();
        context
    }

    /// Builds a package and adds it to the source.
    pub(crate) fn offer(&self, deb: &Deb<'_>) {
        let tree = tempfile::tempdir().unwrap();
        let control = format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: Test <test@example.org>\n\
             Description: package {} of a test\n{}",
            deb.name, deb.version, deb.name, deb.control
        );
        fs::create_dir(tree.path().join("DEBIAN")).unwrap();
        fs::write(tree.path().join("DEBIAN/control"), &control).unwrap();
        let mut conffiles = String::new();
        for (path, content) in deb.files {
            let file = tree.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
            if path.starts_with("/etc/") {
                conffiles.push_str(&format!("{path}\n"));
            }
        }
        fs::write(tree.path().join("DEBIAN/conffiles"), conffiles).unwrap();
        let name = format!("{}_{}_all.deb", deb.name, deb.version);
        let file = self.path().join("source").join(&name);
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Znone", "--build"])
            .arg(tree.path())
            .arg(&file)
            .output()
            .expect("these tests need dpkg-deb, as every Debian has it");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let content = fs::read(&file).unwrap();
        let hash: String = Sha256::digest(&content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let entry = format!(
            "{control}Filename: ./{name}\nSize: {}\nSHA256: {hash}\n\n",
            content.len()
        );
        let packages = self.path().join("source/Packages");
        let all = fs::read_to_string(&packages).unwrap() + &entry;
        fs::write(packages, all).unwrap();
    }

    /// Takes everything out of the source.
    pub(crate) fn withdraw_all(&self) {
        fs::write(self.path().join("source/Packages"), "").unwrap();
        let _ = fs::remove_file(self.path().join("run/packages-refreshed"));
    }
}
