//! A plug-in registry: filters are trait objects that come and go, and the pipeline calls them without naming
//! them. The calls are promoted all the same, by `dynamic_method!`; a hook that most programs never set is a
//! static call that does nothing.
//!
//! `cargo run --release -p relpoline --example plugin_registry`

use relpoline::{UpdateError, dynamic_method, static_call};
use std::collections::BTreeMap;

/// What a plug-in does. The trait knows nothing of relpoline.
trait Filter {
    fn name(&self) -> &'static str;
    fn apply(&self, sample: i64) -> i64;
}

dynamic_method! {
    /// Calls the filter, and learns which filters there are.
    fn apply_filter(filter: &dyn Filter, sample: i64) -> i64 = apply;
}

static_call! {
    /// Called after every pass; until somebody sets it, it is a jump to a `ret`.
    fn after_pass(samples: usize) = null;
}

struct Gain(i64);
impl Filter for Gain {
    fn name(&self) -> &'static str {
        "gain"
    }
    fn apply(&self, sample: i64) -> i64 {
        sample * self.0
    }
}

struct Clip(i64);
impl Filter for Clip {
    fn name(&self) -> &'static str {
        "clip"
    }
    fn apply(&self, sample: i64) -> i64 {
        sample.clamp(-self.0, self.0)
    }
}

struct Invert;
impl Filter for Invert {
    fn name(&self) -> &'static str {
        "invert"
    }
    fn apply(&self, sample: i64) -> i64 {
        -sample
    }
}

/// The filters in use, in the order of their keys.
#[derive(Default)]
struct Registry {
    filters: BTreeMap<u32, Box<dyn Filter>>,
}

impl Registry {
    fn add(&mut self, position: u32, filter: impl Filter + 'static) {
        self.filters.insert(position, Box::new(filter));
    }

    fn run(&self, samples: &mut [i64]) {
        for sample in samples.iter_mut() {
            *sample = self.filters.values().fold(*sample, |value, filter| apply_filter(&**filter, value));
        }
        after_pass(samples.len());
    }

    fn names(&self) -> Vec<&'static str> {
        self.filters.values().map(|f| f.name()).collect()
    }
}

fn main() -> Result<(), UpdateError> {
    let mut registry = Registry::default();
    // For show: the outcome of the clock's contest depends on the machine.
    apply_filter::state().always_promote(true);
    let passes = |registry: &Registry, expected: fn(i64) -> i64| {
        for _ in 0..2000 {
            let mut samples: Vec<i64> = (-50..50).collect();
            registry.run(&mut samples);
            assert!(samples.iter().zip(-50..).all(|(&got, x)| got == expected(x)));
        }
        let stats = apply_filter::state().stats();
        println!("{:?}: {:?}, {} targets learned", registry.names(), stats.state, stats.targets.len());
    };
    registry.add(10, Gain(3));
    registry.add(20, Clip(100));
    passes(&registry, |x| (x * 3).clamp(-100, 100));
    // A plug-in more, and one less, while the pipeline goes on; and the hook is set.
    registry.add(15, Invert);
    after_pass::update(|samples| assert_eq!(samples, 100))?;
    passes(&registry, |x| (-x * 3).clamp(-100, 100));
    registry.filters.remove(&10);
    after_pass::reset()?;
    passes(&registry, |x| (-x).clamp(-100, 100));
    Ok(())
}
