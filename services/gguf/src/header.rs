//! The header of a GGUF file: what a model is called, how it is built and how large it is, without
//! loading it. The input is untrusted: counts, lengths and nesting are bounded, and nothing is
//! allocated on the word of a length field alone.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use crate::format::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufError, MAGIC, VERSION, ValueType};

/// Metadata entries that a header has at most.
const MAX_ENTRIES: u64 = 65_536;
/// Tensors that a header describes at most.
const MAX_TENSORS: u64 = 1 << 20;
/// Bytes of a key or of a tensor's name.
const MAX_NAME: u64 = 4096;
/// Bytes of a string value (a chat template is the longest in practice).
const MAX_STRING: u64 = 4 << 20;
/// Bytes of the whole header: a vocabulary of a million long tokens stays below.
const MAX_HEADER: u64 = 512 << 20;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays within arrays.
const MAX_NESTING: u32 = 4;

/// A metadata value. Of an array only the length is kept.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(u64),
}

/// What the header of a model file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    entries: BTreeMap<String, Value>,
    parameters: u64,
    tensors: u64,
}

impl Header {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// [`GgufError`] when the file cannot be read or its header is not right.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = File::open(path).map_err(|error| GgufError::at(path, error))?;
        Self::from_file(file)
    }

    /// Reads the header from an open file, from its current position on.
    ///
    /// # Errors
    /// As [`Header::open`]; also when the file is shorter than its tensors.
    pub fn from_file(file: File) -> Result<Self, GgufError> {
        let length = file.metadata()?.len();
        Self::read_checked(&mut BufReader::with_capacity(1 << 16, file), Some(length))
    }

    /// Reads the header from anything.
    ///
    /// # Errors
    /// [`GgufError::Read`] when the input ends early, [`GgufError::Invalid`] when it is not right.
    pub fn read(input: &mut impl Read) -> Result<Self, GgufError> {
        Self::read_checked(input, None)
    }

    fn read_checked(input: &mut impl Read, file_length: Option<u64>) -> Result<Self, GgufError> {
        let mut reader = Reader {
            input: input.take(MAX_HEADER),
            consumed: 0,
        };
        if reader.bytes::<4>()? != MAGIC {
            return Err(GgufError::invalid("it does not start with \"GGUF\""));
        }
        let version = reader.u32()?;
        if !(2..=VERSION).contains(&version) {
            return Err(GgufError::invalid(format!(
                "version {version}, but only 2 and {VERSION} are known"
            )));
        }
        let tensors = bounded("tensors", reader.u64()?, MAX_TENSORS)?;
        let count = bounded("metadata entries", reader.u64()?, MAX_ENTRIES)?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = reader.string(MAX_NAME)?;
            let kind = ValueType::from_number(reader.u32()?)?;
            let value = reader.value(kind, 0)?;
            if entries.insert(key.clone(), value).is_some() {
                return Err(GgufError::invalid(format!(
                    "the key {key:?} is there twice"
                )));
            }
        }
        let mut header = Self {
            entries,
            parameters: 0,
            tensors,
        };
        let mut last_offset = 0;
        for _ in 0..tensors {
            let (elements, offset) = reader.tensor()?;
            last_offset = last_offset.max(offset);
            header.parameters = header
                .parameters
                .checked_add(elements)
                .ok_or_else(|| GgufError::invalid("it has more than 2^64 parameters"))?;
        }
        let alignment = header.number(ALIGNMENT_KEY).unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(GgufError::invalid(format!(
                "{ALIGNMENT_KEY} is {alignment}, which is no sensible power of two"
            )));
        }
        if let Some(length) = file_length {
            let data = reader.consumed.next_multiple_of(alignment);
            // The last tensor has at least one byte.
            let needed = data
                .checked_add(last_offset)
                .and_then(|sum| sum.checked_add(1));
            if tensors > 0 && needed.is_none_or(|needed| needed > length) {
                return Err(GgufError::invalid(format!(
                    "it has {length} bytes, but its last tensor starts {last_offset} bytes after \
                     byte {data}: the file is cut short"
                )));
            }
        }
        Ok(header)
    }

    /// `general.name`, or empty.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("general.name").unwrap_or_default()
    }

    /// `general.architecture`, or empty.
    #[must_use]
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or_default()
    }

    /// Weights in all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// How many tensors there are.
    #[must_use]
    pub fn tensors(&self) -> u64 {
        self.tensors
    }

    /// Tokens of context that the model was made for; 0 when the file does not say.
    #[must_use]
    pub fn context_tokens(&self) -> u64 {
        self.of_architecture("context_length").unwrap_or_default()
    }

    /// Entries of the vocabulary; 0 when there is none.
    #[must_use]
    pub fn vocabulary(&self) -> u64 {
        match self.entries.get("tokenizer.ggml.tokens") {
            Some(Value::Array(length)) => *length,
            _ => 0,
        }
    }

    /// Whether the model turns text into vectors and cannot write: it pools, or sees both ways.
    #[must_use]
    pub fn embeds_only(&self) -> bool {
        let pools = self
            .of_architecture("pooling_type")
            .is_some_and(|kind| kind != 0);
        let causal = self
            .entries
            .get(&format!("{}.attention.causal", self.architecture()));
        pools || causal == Some(&Value::Bool(false)) || self.architecture().contains("bert")
    }

    /// A text value.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.entries.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A whole number that is not negative.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.entries.get(key) {
            Some(Value::Unsigned(number)) => Some(*number),
            Some(Value::Signed(number)) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn of_architecture(&self, key: &str) -> Option<u64> {
        self.number(&format!("{}.{key}", self.architecture()))
    }
}

fn bounded(what: &str, number: u64, most: u64) -> Result<u64, GgufError> {
    if number > most {
        return Err(GgufError::invalid(format!(
            "it claims {number} {what}, but at most {most} are believed"
        )));
    }
    Ok(number)
}

struct Reader<R> {
    input: R,
    consumed: u64,
}

impl<R: Read> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.consumed += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// `read_to_end` on a limited reader grows with what is really there, not with what is claimed.
    fn string(&mut self, most: u64) -> Result<String, GgufError> {
        let length = bounded("bytes in a string", self.u64()?, most)?;
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(length).read_to_end(&mut bytes)? as u64;
        self.consumed += read;
        if read != length {
            return Err(GgufError::invalid("it ends within a string"));
        }
        // Tokens may be any bytes, but names and descriptions are text.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip(&mut self, length: u64) -> Result<(), GgufError> {
        let skipped = std::io::copy(&mut (&mut self.input).take(length), &mut std::io::sink())?;
        self.consumed += skipped;
        if skipped != length {
            return Err(GgufError::invalid("it ends within a value"));
        }
        Ok(())
    }

    fn value(&mut self, kind: ValueType, nesting: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            ValueType::U8 => Value::Unsigned(u8::from_le_bytes(self.bytes()?).into()),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(self.bytes()?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(self.bytes()?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(self.bytes()?).into()),
            ValueType::U32 => Value::Unsigned(self.u32()?.into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(self.bytes()?).into()),
            ValueType::F32 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            ValueType::Bool => Value::Bool(self.bytes::<1>()? != [0]),
            ValueType::String => Value::String(self.string(MAX_STRING)?),
            ValueType::U64 => Value::Unsigned(self.u64()?),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            ValueType::F64 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            ValueType::Array => Value::Array(self.array(nesting)?),
        })
    }

    /// Reads over an array and gives its length.
    fn array(&mut self, nesting: u32) -> Result<u64, GgufError> {
        if nesting >= MAX_NESTING {
            return Err(GgufError::invalid("arrays are nested too deeply"));
        }
        let kind = ValueType::from_number(self.u32()?)?;
        let length = self.u64()?;
        if let Some(size) = kind.fixed_size() {
            let total = length
                .checked_mul(size)
                .filter(|total| *total <= MAX_HEADER)
                .ok_or_else(|| GgufError::invalid(format!("an array claims {length} elements")))?;
            self.skip(total)?;
            return Ok(length);
        }
        // Every element takes at least one length field, so that a false length ends at the end of
        // the input and not later.
        for _ in 0..length {
            if kind == ValueType::String {
                let bytes = bounded("bytes in a string", self.u64()?, MAX_STRING)?;
                self.skip(bytes)?;
            } else {
                self.array(nesting + 1)?;
            }
        }
        Ok(length)
    }

    /// The number of elements of a tensor and where its data starts.
    fn tensor(&mut self) -> Result<(u64, u64), GgufError> {
        let name = self.string(MAX_NAME)?;
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(GgufError::invalid(format!(
                "the tensor {name:?} has {dimensions} dimensions"
            )));
        }
        let mut elements = 1_u64;
        for _ in 0..dimensions {
            elements = elements.checked_mul(self.u64()?).ok_or_else(|| {
                GgufError::invalid(format!("the tensor {name:?} has more than 2^64 elements"))
            })?;
        }
        let _kind = self.u32()?;
        Ok((elements, self.u64()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::untrained;

    #[test]
    fn the_header_of_the_stand_in_says_what_it_is() {
        let bytes = untrained::model().unwrap();
        let header = Header::read(&mut bytes.as_slice()).unwrap();
        assert_eq!(header.name(), "aios-untrained");
        assert_eq!(header.architecture(), "llama");
        assert_eq!(header.context_tokens(), untrained::CONTEXT_TOKENS.into());
        assert!(header.parameters() > 50_000);
        assert!((300..=600).contains(&header.vocabulary()));
        assert!(!header.embeds_only());
    }

    #[test]
    fn a_file_that_is_cut_short_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let bytes = untrained::model().unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = Header::open(&path).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
    }

    #[test]
    fn claims_are_not_believed() {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        let error = Header::read(&mut bytes.as_slice()).unwrap_err().to_string();
        assert!(error.contains("tensors"), "{error}");
        // One key with a string of 2^60 bytes.
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend((1_u64 << 60).to_le_bytes());
        assert!(Header::read(&mut bytes.as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), marked: bool) {
            if marked && bytes.len() > 8 {
                bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
            }
            // A random input can only be right when it describes nothing at all.
            if let Ok(header) = Header::read(&mut bytes.as_slice()) {
                prop_assert_eq!(header.parameters(), 0);
            }
        }

        #[test]
        fn a_damaged_header_never_panics(at in 0_usize..8192, byte: u8, cut in 0_usize..9000) {
            let mut bytes = untrained::model().unwrap();
            bytes[at] = byte;
            bytes.truncate(cut.max(at + 1));
            let _ = Header::read(&mut bytes.as_slice());
        }
    }
}
