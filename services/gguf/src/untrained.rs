//! The stand-in model: a real, loadable Llama with random weights. It lets the whole inference path
//! run – load, tokenise, decode, constrain, embed – before a trained model exists, and it says of
//! itself that it is untrained, so that nothing plans with its words.
//!
//! The file is the same byte for byte wherever it is built.

use std::{fs, path::Path};

use sha2::{Digest as _, Sha256};

use crate::{
    format::{GgufError, TensorType},
    manifest::{self, Manifest, ManifestEntry},
    writer::Writer,
};

/// The name of the model file.
pub const FILE_NAME: &str = "aios-untrained.gguf";
/// `general.name`, and the name in the manifest.
pub const NAME: &str = "aios-untrained";
/// Context in tokens.
pub const CONTEXT_TOKENS: u32 = 2048;

const LAYERS: u32 = 2;
const WIDTH: u64 = 64;
const HEADS: u32 = 4;
const FEED_FORWARD: u64 = 128;
/// Seed of the weights.
const SEED: u64 = 0x6169_6f73;

/// Numbers of token types in `tokenizer.ggml.token_type`.
mod token_type {
    pub(super) const NORMAL: i32 = 1;
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const BYTE: i32 = 6;
}

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

/// Pieces longer than a character. A piece is only reached through its first part, so that each is
/// made of two entries that come before it or of single characters.
const PIECES: &str = "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le \
     ve co me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur \
     ▁t ▁a ▁s ▁i ▁o ▁w ▁c ▁b ▁p ▁f ▁d ▁m ▁h ▁r ▁l ▁n ▁e ▁g ▁u \
     ▁th ▁the ▁an ▁and ▁in ▁of ▁to ▁is ▁re ▁st ▁se ▁co ▁fi ▁pr ▁de ing ion ent";

/// The model file as bytes.
///
/// # Errors
/// Only if this module contradicts itself about a tensor's shape.
pub fn model() -> Result<Vec<u8>, GgufError> {
    let vocabulary = Vocabulary::new();
    let size = vocabulary.tokens.len() as u64;
    let mut writer = Writer::new();
    writer
        .text("general.architecture", "llama")
        .text("general.name", NAME)
        .text(
            "general.description",
            "Random weights: a stand-in that proves the inference path. Its output means nothing.",
        )
        .text("general.license", "MIT OR Apache-2.0")
        // Q8_0 but for the norms.
        .u32("general.file_type", 7)
        .u32("general.quantization_version", 2)
        .u32("llama.context_length", CONTEXT_TOKENS)
        .u32("llama.embedding_length", WIDTH as u32)
        .u32("llama.block_count", LAYERS)
        .u32("llama.feed_forward_length", FEED_FORWARD as u32)
        .u32("llama.attention.head_count", HEADS)
        .u32("llama.attention.head_count_kv", HEADS)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .u32("llama.rope.dimension_count", WIDTH as u32 / HEADS)
        .u32("llama.vocab_size", size as u32)
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &vocabulary.tokens)
        .f32s("tokenizer.ggml.scores", &vocabulary.scores)
        .i32s("tokenizer.ggml.token_type", &vocabulary.types)
        .u32("tokenizer.ggml.unknown_token_id", 0)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .bool("tokenizer.ggml.add_bos_token", true)
        .bool("tokenizer.ggml.add_space_prefix", false);

    let mut random = SplitMix64(SEED);
    let mut matrix = |writer: &mut Writer, name: &str, columns: u64, rows: u64, exponent: i32| {
        let data = random_q8_0(&mut random, columns * rows, exponent);
        writer
            .tensor(name, &[columns, rows], TensorType::Q8_0, data)
            .map(|_| ())
    };
    // The exponents give weights of about 1/sqrt(columns), which keeps activations near one.
    matrix(&mut writer, "token_embd.weight", WIDTH, size, -9)?;
    ones(&mut writer, "output_norm.weight")?;
    matrix(&mut writer, "output.weight", WIDTH, size, -9)?;
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        ones(&mut writer, &name("attn_norm"))?;
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            matrix(&mut writer, &name(part), WIDTH, WIDTH, -9)?;
        }
        ones(&mut writer, &name("ffn_norm"))?;
        matrix(&mut writer, &name("ffn_gate"), WIDTH, FEED_FORWARD, -9)?;
        matrix(&mut writer, &name("ffn_up"), WIDTH, FEED_FORWARD, -9)?;
        matrix(&mut writer, &name("ffn_down"), FEED_FORWARD, WIDTH, -10)?;
    }
    Ok(writer.finish())
}

/// Writes the model and its manifest into a directory, which is made when it is not there.
///
/// # Errors
/// When the directory or a file in it cannot be written.
pub fn write(dir: &Path) -> Result<ManifestEntry, GgufError> {
    let bytes = model()?;
    let entry = ManifestEntry {
        file: FILE_NAME.to_owned(),
        sha256: hex(&Sha256::digest(&bytes)),
        name: NAME.to_owned(),
        trained: false,
        operational: true,
        description: "Stand-in with random weights; never plan with it.".to_owned(),
    };
    let manifest = Manifest {
        models: vec![entry.clone()],
    };
    fs::create_dir_all(dir).map_err(|error| GgufError::at(dir, error))?;
    for (name, content) in [
        (FILE_NAME, bytes),
        (
            manifest::FILE_NAME,
            toml::to_string(&manifest)?.into_bytes(),
        ),
    ] {
        let path = dir.join(name);
        fs::write(&path, content).map_err(|error| GgufError::at(&path, error))?;
    }
    Ok(entry)
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Vocabulary {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
}

impl Vocabulary {
    fn new() -> Self {
        let mut vocabulary = Self {
            tokens: Vec::new(),
            scores: Vec::new(),
            types: Vec::new(),
        };
        vocabulary.add("<unk>", 0.0, token_type::UNKNOWN);
        vocabulary.add("<s>", 0.0, token_type::CONTROL);
        vocabulary.add("</s>", 0.0, token_type::CONTROL);
        for byte in 0..=255_u8 {
            vocabulary.add(&format!("<0x{byte:02X}>"), 0.0, token_type::BYTE);
        }
        // Longer pieces score higher by their place in the list, single characters lowest.
        for (rank, piece) in PIECES.split_whitespace().enumerate() {
            vocabulary.add(piece, -(rank as f32) - 1.0, token_type::NORMAL);
        }
        vocabulary.add(&SPACE.to_string(), -1000.0, token_type::NORMAL);
        for character in '!'..='~' {
            vocabulary.add(&character.to_string(), -1000.0, token_type::NORMAL);
        }
        vocabulary
    }

    fn add(&mut self, token: &str, score: f32, kind: i32) {
        self.tokens.push(token.to_owned());
        self.scores.push(score);
        self.types.push(kind);
    }
}

/// A norm that changes nothing.
fn ones(writer: &mut Writer, name: &str) -> Result<(), GgufError> {
    let data = (0..WIDTH).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
    writer
        .tensor(name, &[WIDTH], TensorType::F32, data)
        .map(|_| ())
}

/// Blocks of random signed bytes under a scale of 2^`exponent`, which half precision holds exactly.
fn random_q8_0(random: &mut SplitMix64, elements: u64, exponent: i32) -> Vec<u8> {
    let scale = (((exponent + 15) as u16) << 10).to_le_bytes();
    let mut data = Vec::new();
    for _ in 0..elements / 32 {
        data.extend(scale);
        for _ in 0..4 {
            // -128 is no value of this format.
            data.extend(
                random
                    .next()
                    .to_le_bytes()
                    .map(|byte| if byte == 0x80 { 0 } else { byte }),
            );
        }
    }
    data
}

/// The SplitMix64 generator: short, well mixed, and the same everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs of SplitMix64 for seed 1234567, from the generator's reference code.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn the_vocabulary_has_no_token_twice_and_every_piece_can_be_reached() {
        let vocabulary = Vocabulary::new();
        let set: std::collections::BTreeSet<_> = vocabulary.tokens.iter().collect();
        assert_eq!(set.len(), vocabulary.tokens.len());
        for piece in PIECES.split_whitespace() {
            let reached = piece.char_indices().skip(1).any(|(at, _)| {
                let (a, b) = piece.split_at(at);
                set.contains(&a.to_owned()) && set.contains(&b.to_owned())
            });
            assert!(reached, "{piece}");
        }
    }

    #[test]
    fn the_manifest_names_the_hash_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let entry = write(&dir.path().join("models")).unwrap();
        let bytes = fs::read(dir.path().join("models").join(FILE_NAME)).unwrap();
        assert_eq!(hex(&Sha256::digest(&bytes)), entry.sha256);
        let text = fs::read_to_string(dir.path().join("models/manifest.toml")).unwrap();
        let manifest: Manifest = toml::from_str(&text).unwrap();
        assert_eq!(manifest.entry(FILE_NAME), Some(&entry));
        assert!(!entry.trained && entry.operational);
    }

    #[test]
    fn the_file_is_the_same_every_time() {
        assert_eq!(model().unwrap(), model().unwrap());
    }
}
