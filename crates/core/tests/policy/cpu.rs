//! A model of the CPU: what calls cost, and a branch predictor of the TAGE family.

use relpoline_core::policy::Costs;

/// Lengths of history, in taken branches, of the predictor's tagged tables.
const LENGTHS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const TABLE: usize = 2048;
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Default)]
struct Entry {
    tag: u16,
    /// -4 to 3; taken when not negative.
    counter: i8,
    useful: bool,
}

/// Path history of one hardware thread: a rolling hash over the last taken branches per length.
#[derive(Clone)]
struct History {
    taken: [u64; 64],
    head: usize,
    hashes: [u64; LENGTHS.len()],
    powers: [u64; LENGTHS.len()],
}

impl History {
    fn new() -> History {
        let powers = LENGTHS.map(|l| (0..l).fold(1u64, |p, _| p.wrapping_mul(PRIME)));
        History { taken: [0; 64], head: 0, hashes: [0; LENGTHS.len()], powers }
    }

    fn push(&mut self, branch: u64) {
        for ((hash, length), power) in self.hashes.iter_mut().zip(LENGTHS).zip(self.powers) {
            let oldest = self.taken[(self.head + 64 - length) % 64];
            *hash = hash.wrapping_mul(PRIME).wrapping_add(branch).wrapping_sub(oldest.wrapping_mul(power));
        }
        self.taken[self.head] = branch;
        self.head = (self.head + 1) % 64;
    }
}

/// A core's predictor of conditional branches.
pub struct Predictor {
    bimodal: Vec<i8>,
    tables: Vec<Vec<Entry>>,
    history: History,
    ticks: u32,
}

impl Predictor {
    pub fn new() -> Predictor {
        Predictor {
            bimodal: vec![0; 4096],
            tables: vec![vec![Entry::default(); TABLE]; LENGTHS.len()],
            history: History::new(),
            ticks: 0,
        }
    }

    fn place(&self, table: usize, pc: u64) -> (usize, u16) {
        let h = (self.history.hashes[table] ^ pc.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)).wrapping_mul(PRIME);
        ((h >> 50) as usize % TABLE, ((h >> 34) as u16).max(1))
    }

    /// A branch at `pc` goes its way: whether that was mispredicted.
    pub fn branch(&mut self, pc: u64, taken: bool) -> bool {
        let places: [(usize, u16); LENGTHS.len()] = std::array::from_fn(|t| self.place(t, pc));
        let mut matches = (0..LENGTHS.len()).rev().filter(|&t| self.tables[t][places[t].0].tag == places[t].1);
        let (longest, second) = (matches.next(), matches.next());
        let base = (pc.wrapping_mul(PRIME) >> 40) as usize % 4096;
        let alternative = match second {
            Some(t) => self.tables[t][places[t].0].counter >= 0,
            None => self.bimodal[base] >= 0,
        };
        let predicted = match longest {
            Some(t) => {
                let e = self.tables[t][places[t].0];
                // A new entry that knows little yet yields to the next longest history.
                let new = !e.useful && (e.counter == 0 || e.counter == -1);
                if new { alternative } else { e.counter >= 0 }
            }
            None => self.bimodal[base] >= 0,
        };
        self.train(&places, longest, base, taken, alternative, predicted != taken);
        if taken {
            self.history.push(pc.wrapping_mul(PRIME) | 1);
        }
        predicted != taken
    }

    fn train(
        &mut self,
        places: &[(usize, u16)],
        provider: Option<usize>,
        base: usize,
        taken: bool,
        alternative: bool,
        wrong: bool,
    ) {
        let bump = |c: i8| if taken { (c + 1).min(3) } else { (c - 1).max(-4) };
        match provider {
            Some(t) => {
                let e = &mut self.tables[t][places[t].0];
                let right = (e.counter >= 0) == taken;
                if (e.counter >= 0) != alternative {
                    e.useful = right;
                }
                e.counter = bump(e.counter);
            }
            None => self.bimodal[base] = bump(self.bimodal[base]),
        }
        if wrong {
            let first = provider.map_or(0, |t| t + 1);
            match (first..LENGTHS.len()).find(|&t| !self.tables[t][places[t].0].useful) {
                Some(t) => {
                    let counter = if taken { 0 } else { -1 };
                    self.tables[t][places[t].0] = Entry { tag: places[t].1, counter, useful: false };
                }
                None => (first..LENGTHS.len()).for_each(|t| self.tables[t][places[t].0].useful = false),
            }
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(1 << 16) {
            self.tables.iter_mut().flatten().for_each(|e| e.useful = false);
        }
    }
}

/// A machine: true costs, and one predictor per thread.
pub struct Cpu {
    pub costs: Costs,
    cores: [Predictor; 2],
    pub mispredicts: u64,
}

impl Cpu {
    pub fn new(costs: Costs) -> Cpu {
        Cpu { costs, cores: [Predictor::new(), Predictor::new()], mispredicts: 0 }
    }

    /// What a branch costs beyond being executed [1/16 cycle].
    pub fn branch(&mut self, thread: u16, pc: u64, taken: bool) -> u64 {
        let wrong = self.cores[usize::from(thread % 2)].branch(pc, taken);
        self.mispredicts += u64::from(wrong);
        u64::from(wrong) * u64::from(self.costs.mispredict)
    }
}
