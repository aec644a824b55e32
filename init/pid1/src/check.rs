//! `aios-init --check`: the unit files of a directory, read by the code that PID 1 reads them with.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aios_init_core::{Loaded, UnitSet, load_units, resolve};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How many units can be read.
    pub units: usize,
    /// Everything that is wrong, one line each.
    pub problems: Vec<String>,
}

/// The units of a directory; a file that cannot be read is a problem among the others.
pub fn load_dir(dir: &Path) -> UnitSet {
    let mut unreadable = Vec::new();
    let mut texts: Vec<(PathBuf, String)> = Vec::new();
    match aios_config::toml_files(dir) {
        Ok(files) => {
            for path in files {
                match fs::read_to_string(&path) {
                    Ok(text) => texts.push((path, text)),
                    Err(error) => unreadable.push(format!("{}: {error}", path.display())),
                }
            }
        }
        Err(error) => unreadable.push(error.to_string()),
    }
    let mut set = load_units(
        texts
            .iter()
            .map(|(path, text)| (path.as_path(), text.as_str())),
    );
    set.problems.extend(unreadable);
    set
}

/// Checks the unit files of a directory, and against a root file system if one is given.
#[must_use]
pub fn check(dir: &Path, root: Option<&Path>) -> Found {
    let mut set = load_dir(dir);
    if !dir.is_dir() {
        set.problems
            .push(format!("{}: there is no such directory", dir.display()));
    }
    if let Some(root) = root {
        let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
        let group = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
        for loaded in set.units.values() {
            let at = loaded.path.display();
            if let Err(error) = resolve(&passwd, &group, &loaded.unit.user) {
                set.problems.push(format!("{at}: user: {error}"));
            }
            if !is_program(root, loaded) {
                let command = &loaded.unit.command.0;
                set.problems.push(format!(
                    "{at}: command: there is no program {command} in {}",
                    root.display()
                ));
            }
        }
    }
    Found {
        units: set.units.len(),
        problems: set.problems,
    }
}

/// Follows links inside of the root, as they will be followed on the machine.
fn is_program(root: &Path, loaded: &Loaded) -> bool {
    let mut path = root.join(loaded.unit.command.0.trim_start_matches('/'));
    for _ in 0..8 {
        match fs::read_link(&path) {
            Ok(target) if target.is_absolute() => {
                path = root.join(target.strip_prefix("/").unwrap_or(&target));
            }
            Ok(target) => path = path.parent().unwrap_or(root).join(target),
            Err(_) => break,
        }
    }
    fs::metadata(&path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_of_the_image_are_right() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc/services");
        let found = check(&dir, None);
        assert_eq!(found.problems, [""; 0]);
        assert!(found.units >= 18, "{}", found.units);
    }

    #[test]
    fn a_root_is_looked_into() {
        let root = tempfile::tempdir().unwrap();
        let units = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.path().join("usr/bin/real"), "").unwrap();
        fs::set_permissions(
            root.path().join("usr/bin/real"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        std::os::unix::fs::symlink("/usr/bin/real", root.path().join("usr/bin/good")).unwrap();
        let unit = |name: &str, command: &str, user: &str| {
            let text = format!(
                "description = \"d\"\nphase = \"services\"\ncommand = \"{command}\"\nuser = \"{user}\"\n"
            );
            fs::write(units.path().join(format!("{name}.toml")), text).unwrap();
        };
        unit("good", "/usr/bin/good", "root");
        unit("bad", "/usr/bin/none", "nobody");
        let found = check(units.path(), Some(root.path()));
        assert_eq!(found.units, 2);
        assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
        assert!(
            found.problems[0].contains("no account `nobody`"),
            "{:?}",
            found.problems
        );
        assert!(
            found.problems[1].contains("no program /usr/bin/none"),
            "{:?}",
            found.problems
        );
        assert_eq!(check(units.path(), None).problems, [""; 0]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_problem() {
        assert_eq!(
            check(Path::new("/nonexistent/services"), None)
                .problems
                .len(),
            1
        );
    }
}
