//! Reading of TOML configuration, the same for PID 1 and for every daemon.
//!
//! Invariants: an unknown key is an error; every error names the file, the line and the column, and
//! for an unknown key the nearest key that is known. Types that are read here carry
//! `#[serde(deny_unknown_fields)]`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// A file larger than this is not configuration.
pub const MAX_BYTES: u64 = 1 << 20;

/// Why a configuration file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the file: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is too large to be configuration.
    #[error("{}: {size} bytes, but a configuration file has at most {MAX_BYTES}", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The content is not what the reader expects.
    #[error("{}:{line}:{column}: {message}{hint}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
        /// What to write instead, or empty.
        hint: String,
    },
}

/// Reads and checks one TOML file.
///
/// # Errors
/// [`ConfigError`] when the file cannot be read, is too large, or does not fit `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let size = fs::metadata(path).map_err(read)?.len();
    if size > MAX_BYTES {
        return Err(ConfigError::TooLarge {
            path: path.to_owned(),
            size,
        });
    }
    parse(path, &fs::read_to_string(path).map_err(read)?)
}

/// Checks TOML text; `path` is only named in errors.
///
/// # Errors
/// [`ConfigError::Invalid`] when the text does not fit `T`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        let message = one_line(error.message());
        ConfigError::Invalid {
            path: path.to_owned(),
            line,
            column,
            hint: nearest_hint(&message),
            message,
        }
    })
}

/// Every `*.toml` file of a directory in the order of their names; an absent directory has none.
///
/// # Errors
/// [`ConfigError::Read`] when the directory exists and cannot be listed.
pub fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let read = |source| ConfigError::Read {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The known name nearest to a mistyped one, if any is near enough to be meant.
#[must_use]
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min()
        .map(|(_, name)| name)
}

/// serde names the unknown field and the expected ones between back-ticks.
fn nearest_hint(message: &str) -> String {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return String::new();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next() else {
        return String::new();
    };
    nearest(unknown, quoted).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Messages repeat parts of the file, and end on terminals and in logs: they stay one line without
/// control characters.
fn one_line(message: &str) -> String {
    message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |last| last.chars().count())
        + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code, reason = "only its name matters here")]
        restart: String,
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_key() {
        let error =
            parse::<Sample>(Path::new("x.toml"), "# c\nrestrat = \"always\"\n").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("x.toml:2:1: "), "{text}");
        assert!(text.ends_with("did you mean `restart`?"), "{text}");
    }

    #[test]
    fn a_message_is_one_line_whatever_the_file_says() {
        let error = parse::<Sample>(Path::new("x.toml"), "\"a\\nb\\u001b[2J\" = 1").unwrap_err();
        assert!(
            !error.to_string().chars().any(char::is_control),
            "{error:?}"
        );
    }

    #[test]
    fn a_wrong_type_is_placed_at_the_value() {
        let error = parse::<Sample>(Path::new("x.toml"), "restart = 3").unwrap_err();
        assert!(error.to_string().starts_with("x.toml:1:11: "), "{error}");
    }
}
