//! What `bpf run --stats` says of programs: starts, and tail calls with computed indexes.

use crate::shown::line;
use relpoline_bpf::{HotTarget, Object, Reason, VariableCall};

/// Prints both. `newcomers` are programs that were swapped in, and their starts.
pub fn print(object: &Object, newcomers: &[(String, u64)]) {
    println!("\n{:>12}  program", "starts");
    for program in object.programs() {
        println!("{:>12}  {}", program.hits().unwrap_or(0), line(program.name()));
    }
    for (name, starts) in newcomers {
        println!("{starts:>12}  {}, swapped in", line(name));
    }
    let calls = || object.programs().iter().flat_map(|p| p.variable_calls().into_iter().map(move |call| (p, call)));
    if calls().next().is_some() {
        println!("\n{:>12}  tail calls with computed indexes", "by a tree");
    }
    for (program, call) in calls() {
        let through = call.through_trees.map_or_else(|| "-".into(), |n| n.to_string());
        println!(
            "{through:>12}  {}:{} through {}: {}",
            line(program.name()),
            call.instruction,
            line(&call.array.to_string()),
            line(&state(&call))
        );
    }
}

fn state(call: &VariableCall) -> String {
    if !call.promoted {
        return call.reason.to_string();
    }
    let target = |t: &HotTarget| format!("{} {} %", t.program.as_deref().unwrap_or("(gone)"), t.percent);
    let targets = call.targets.iter().map(target).collect::<Vec<_>>().join(", ");
    // A tree may be in place for a trial only.
    let why = if call.reason == Reason::Promoted { String::new() } else { format!(" ({})", call.reason) };
    format!("promoted to {targets}{why}")
}
