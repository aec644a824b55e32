//! Choice of the next token from the model's logits: greedy, or by temperature among the likeliest.
//! Pure and repeatable: the same logits and the same seed give the same choice on every machine.

/// Tokens among which a temperature above zero chooses.
const TOP_K: usize = 40;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: i32,
    /// Its logit.
    pub logit: f32,
}

/// Chooses tokens.
#[derive(Debug)]
pub struct Sampler {
    temperature: f32,
    random: Xorshift,
}

impl Sampler {
    /// A sampler; a temperature of zero or less is greedy.
    #[must_use]
    pub fn new(temperature: f32, seed: u64) -> Self {
        Self {
            temperature,
            random: Xorshift::new(seed),
        }
    }

    /// Chooses one of the candidates, or none when no logit is a finite number. The order of the
    /// candidates does not matter: among equals the lowest token counts as the likeliest.
    pub fn choose(&mut self, candidates: &mut Vec<Candidate>) -> Option<i32> {
        candidates.retain(|candidate| candidate.logit.is_finite());
        let likelier =
            |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        if self.temperature <= 0.0 {
            return candidates
                .iter()
                .min_by(|a, b| likelier(a, b))
                .map(|best| best.token);
        }
        if candidates.len() > TOP_K {
            candidates.select_nth_unstable_by(TOP_K - 1, likelier);
            candidates.truncate(TOP_K);
        }
        candidates.sort_unstable_by(likelier);
        let best = f64::from(candidates.first()?.logit);
        let temperature = f64::from(self.temperature);
        let weights: Vec<f64> = candidates
            .iter()
            .map(|candidate| ((f64::from(candidate.logit) - best) / temperature).exp())
            .collect();
        let mut left = self.random.fraction() * weights.iter().sum::<f64>();
        for (candidate, weight) in candidates.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        // Rounding left nothing over: the last one it is.
        candidates.last().map(|candidate| candidate.token)
    }
}

/// Xorshift64*: enough for sampling, and the same on every machine.
#[derive(Debug)]
struct Xorshift(u64);

impl Xorshift {
    fn new(seed: u64) -> Self {
        // Neighbouring seeds are spread apart; the state must not be zero.
        let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = Self(mixed | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In [0, 1), from the upper 53 bits.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(logits: &[f32]) -> Vec<Candidate> {
        (0..)
            .zip(logits)
            .map(|(token, &logit)| Candidate { token, logit })
            .collect()
    }

    #[test]
    fn greedy_takes_the_best_and_the_lowest_of_equals() {
        let mut sampler = Sampler::new(0.0, 1);
        assert_eq!(
            sampler.choose(&mut candidates(&[1.0, 3.0, 3.0, 2.0])),
            Some(1)
        );
    }

    #[test]
    fn what_is_no_number_is_never_chosen() {
        let mut sampler = Sampler::new(0.0, 1);
        let mut odd = candidates(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -5.0]);
        assert_eq!(sampler.choose(&mut odd), Some(3));
        assert_eq!(sampler.choose(&mut candidates(&[f32::NAN])), None);
        assert_eq!(Sampler::new(1.0, 1).choose(&mut Vec::new()), None);
    }

    #[test]
    fn shares_follow_the_temperature() {
        // Two tokens, the first exp(1) times as likely: about 73 % at temperature 1.
        let mut sampler = Sampler::new(1.0, 7);
        let first = (0..4000)
            .filter(|_| sampler.choose(&mut candidates(&[1.0, 0.0])) == Some(0))
            .count();
        assert!((2780..3060).contains(&first), "{first}");
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(logits in proptest::collection::vec(-9.0_f32..9.0, 1..120), seed: u64, temperature in 0.0_f32..2.0) {
            let mut forward = candidates(&logits);
            let mut backward = forward.clone();
            backward.reverse();
            let a = Sampler::new(temperature, seed).choose(&mut forward);
            let b = Sampler::new(temperature, seed).choose(&mut backward);
            prop_assert_eq!(a, b);
            prop_assert!(a.is_some());
        }

        #[test]
        fn only_likely_tokens_are_chosen(logits in proptest::collection::vec(-9.0_f32..9.0, 41..200), seed: u64) {
            let chosen = Sampler::new(1.5, seed).choose(&mut candidates(&logits)).unwrap();
            let better = logits.iter().filter(|logit| **logit > logits[chosen as usize]).count();
            prop_assert!(better < TOP_K);
        }
    }
}
