//! A writer of GGUF version 3, for models that fit in memory. The output depends on the calls alone.

use crate::format::{DEFAULT_ALIGNMENT, GgufError, MAGIC, TensorType, VERSION, ValueType};

struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    kind: TensorType,
    data: Vec<u8>,
}

/// Collects metadata and tensors, in the order of the calls.
#[derive(Default)]
pub struct Writer {
    entries: u64,
    metadata: Vec<u8>,
    tensors: Vec<Tensor>,
}

impl Writer {
    /// A writer of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn entry(&mut self, key: &str, kind: ValueType) -> &mut Vec<u8> {
        self.entries += 1;
        string(&mut self.metadata, key.as_bytes());
        self.metadata.extend((kind as u32).to_le_bytes());
        &mut self.metadata
    }

    fn array(&mut self, key: &str, kind: ValueType, length: usize) -> &mut Vec<u8> {
        let out = self.entry(key, ValueType::Array);
        out.extend((kind as u32).to_le_bytes());
        out.extend((length as u64).to_le_bytes());
        out
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        string(self.entry(key, ValueType::String), value.as_bytes());
        self
    }

    /// Adds a number.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.entry(key, ValueType::U32).extend(value.to_le_bytes());
        self
    }

    /// Adds a fraction.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.entry(key, ValueType::F32).extend(value.to_le_bytes());
        self
    }

    /// Adds yes or no.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.entry(key, ValueType::Bool).push(value.into());
        self
    }

    /// Adds texts.
    pub fn texts(&mut self, key: &str, values: &[String]) -> &mut Self {
        let out = self.array(key, ValueType::String, values.len());
        for value in values {
            string(out, value.as_bytes());
        }
        self
    }

    /// Adds fractions.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let out = self.array(key, ValueType::F32, values.len());
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// Adds numbers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let out = self.array(key, ValueType::I32, values.len());
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// Adds a tensor; the first dimension is the one that lies together in memory.
    ///
    /// # Errors
    /// When the data has not the size that its shape and type ask for.
    pub fn tensor(
        &mut self,
        name: &str,
        dimensions: &[u64],
        kind: TensorType,
        data: Vec<u8>,
    ) -> Result<&mut Self, GgufError> {
        let elements = dimensions.iter().try_fold(1_u64, |a, b| a.checked_mul(*b));
        let expected = elements.and_then(|elements| kind.size_of(elements));
        if expected != Some(data.len() as u64) {
            return Err(GgufError::invalid(format!(
                "the tensor {name:?} of shape {dimensions:?} has {} bytes",
                data.len()
            )));
        }
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dimensions: dimensions.to_vec(),
            kind,
            data,
        });
        Ok(self)
    }

    /// The whole file.
    #[must_use]
    pub fn finish(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(&self.metadata);
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            string(&mut out, tensor.name.as_bytes());
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            for dimension in &tensor.dimensions {
                out.extend(dimension.to_le_bytes());
            }
            out.extend((tensor.kind as u32).to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (tensor.data.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        pad(&mut out);
        for tensor in &self.tensors {
            out.extend(&tensor.data);
            pad(&mut out);
        }
        out
    }
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Header;

    #[test]
    fn a_tensor_of_the_wrong_size_is_refused() {
        let mut writer = Writer::new();
        assert!(
            writer
                .tensor("a", &[2, 2], TensorType::F32, vec![0; 15])
                .is_err()
        );
        assert!(
            writer
                .tensor("a", &[31], TensorType::Q8_0, vec![0; 34])
                .is_err()
        );
        assert!(
            writer
                .tensor("a", &[u64::MAX, 2], TensorType::F32, Vec::new())
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in ".{0,40}", number: u32, list in proptest::collection::vec(".{0,8}", 0..20), rows in 1_u64..9) {
            let mut writer = Writer::new();
            writer
                .text("general.architecture", "llama")
                .text("general.name", &name)
                .u32("llama.context_length", number)
                .texts("tokenizer.ggml.tokens", &list)
                .f32("x", 1.5)
                .bool("y", true);
            writer.tensor("t", &[32, rows], TensorType::Q8_0, vec![1; 34 * rows as usize]).unwrap();
            let header = Header::read(&mut writer.finish().as_slice()).unwrap();
            prop_assert_eq!(header.name(), name);
            prop_assert_eq!(header.context_tokens(), u64::from(number));
            prop_assert_eq!(header.vocabulary(), list.len() as u64);
            prop_assert_eq!(header.parameters(), 32 * rows);
        }
    }
}
