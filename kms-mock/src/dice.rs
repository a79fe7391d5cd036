//! Chance that can be repeated: what latencies and faults with a probability are drawn from. Nothing secret comes from here.

use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): equal seeds give equal draws.
#[derive(Debug)]
pub struct Dice {
    state: AtomicU64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice { state: AtomicU64::new(seed) }
    }

    /// Begins the draws of this seed.
    pub fn seed(&self, seed: u64) {
        self.state.store(seed, Ordering::Relaxed);
    }

    /// Evenly from 0 (included) to 1 (excluded).
    pub fn fraction(&self) -> f64 {
        // The 53 bits that a float holds.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From the normal distribution with mean 0 and deviation 1, by the method of Box and Muller.
    pub fn normal(&self) -> f64 {
        let (radius, angle) = (1.0 - self.fraction(), self.fraction());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_numbers() {
        let dice = Dice::new(1_234_567);
        assert_eq!(
            [(); 3].map(|()| dice.next()),
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn a_seed_repeats() {
        let dice = Dice::new(7);
        let first = [(); 10].map(|()| dice.fraction());
        dice.seed(7);
        assert_eq!([(); 10].map(|()| dice.fraction()), first);
        assert!(first.iter().all(|fraction| (0.0..1.0).contains(fraction)));
    }

    #[test]
    fn normal_draws_have_their_moments() {
        let dice = Dice::new(1);
        let draws: Vec<f64> = (0..100_000).map(|_| dice.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
