//! A host that passes each request to its plug-ins, which come and go while it runs.
//!
//! A dynamic method learns which plug-ins there are and jumps to them directly. It is timed against the plain
//! call and steps back where that is faster; built with `-Zretpoline` or in a program whose indirect calls
//! are retpolines it does not.

use relpoline::dynamic_method;
use relpoline_uses::{CALLS, compare, looped, work};

trait Plugin {
    fn handle(&self, request: u64) -> u64;
}
struct Adds(u64);
struct Mixes(u64);
struct Turns(u32);
impl Plugin for Adds {
    fn handle(&self, request: u64) -> u64 {
        request.wrapping_add(self.0)
    }
}
impl Plugin for Mixes {
    fn handle(&self, request: u64) -> u64 {
        work(request ^ self.0)
    }
}
impl Plugin for Turns {
    fn handle(&self, request: u64) -> u64 {
        request.rotate_left(self.0)
    }
}

dynamic_method! {
    /// Gives a request to any plug-in.
    fn handle(plugin: &(dyn Plugin + Send), request: u64) -> u64 = handle;
}

fn main() {
    let mut plugins: Vec<Box<dyn Plugin + Send>> = vec![Box::new(Adds(7)), Box::new(Mixes(3)), Box::new(Turns(9))];
    let plain = |plugins: &[Box<dyn Plugin + Send>], x| plugins.iter().fold(x, |x, plugin| plugin.handle(x));
    let learned = |plugins: &[Box<dyn Plugin + Send>], x| plugins.iter().fold(x, |x, plugin| handle(&**plugin, x));
    for x in 0..CALLS {
        assert_eq!(learned(&plugins, x), plain(&plugins, x));
    }
    // One comes, one goes; what was learned stays right.
    plugins.push(Box::new(Adds(11)));
    plugins.remove(0);
    for x in 0..CALLS {
        assert_eq!(learned(&plugins, x), plain(&plugins, x));
    }
    compare(
        "a request through three plug-ins",
        &mut [("`dyn`", looped!(x => plain(&plugins, x))), ("`dynamic_method!`", looped!(x => learned(&plugins, x)))],
    );
    println!("\n{}", handle::state().stats());
}
