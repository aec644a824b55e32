//! What reader and writer of GGUF version 3 have in common: type numbers, limits and errors. All
//! numbers in a file are little-endian.

use std::{io, path::PathBuf};

/// The first four bytes of every file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written; 2 is read too, since it differs in nothing that is read here.
pub(crate) const VERSION: u32 = 3;
/// Where tensor data starts and how each tensor is padded, unless a file says otherwise.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// Name of the metadata key that says otherwise.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Why a GGUF file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading from memory or a pipe failed.
    #[error("the file ends too early or cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The content is not a usable GGUF header.
    #[error("not a usable GGUF file: {0}")]
    Invalid(String),
    /// The manifest could not be written as TOML.
    #[error("cannot write the manifest: {0}")]
    Manifest(#[from] toml::ser::Error),
}

impl GgufError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub(crate) fn at(path: &std::path::Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    /// 8 bits, unsigned.
    U8 = 0,
    /// 8 bits, signed.
    I8 = 1,
    /// 16 bits, unsigned.
    U16 = 2,
    /// 16 bits, signed.
    I16 = 3,
    /// 32 bits, unsigned.
    U32 = 4,
    /// 32 bits, signed.
    I32 = 5,
    /// 32 bits, floating point.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// Length and bytes.
    String = 8,
    /// Element type, length and elements.
    Array = 9,
    /// 64 bits, unsigned.
    U64 = 10,
    /// 64 bits, signed.
    I64 = 11,
    /// 64 bits, floating point.
    F64 = 12,
}

impl ValueType {
    pub(crate) fn from_number(number: u32) -> Result<Self, GgufError> {
        Ok(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            other => {
                return Err(GgufError::invalid(format!(
                    "value type {other} does not exist"
                )));
            }
        })
    }

    /// Bytes of a value whose size does not depend on its content.
    pub(crate) fn fixed_size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// The element types that the writer knows. Readers meet many more and need not know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TensorType {
    /// 32 bits, floating point.
    F32 = 0,
    /// Blocks of 32 signed bytes under one half-precision scale.
    Q8_0 = 8,
}

impl TensorType {
    /// Bytes that so many elements take; none when they do not fill whole blocks.
    #[must_use]
    pub fn size_of(self, elements: u64) -> Option<u64> {
        match self {
            Self::F32 => elements.checked_mul(4),
            Self::Q8_0 if elements.is_multiple_of(32) => (elements / 32).checked_mul(34),
            Self::Q8_0 => None,
        }
    }
}
