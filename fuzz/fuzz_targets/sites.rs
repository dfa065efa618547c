//! What is found in an object: any bytes as text and unwind tables. Every site is a direct branch to a
//! thunk, lies in a function, and was reached by reading instructions from its start.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_core::arch::decode::{Flow, decode};
use relpoline_core::arch::thunk;
use relpoline_core::scan::{EhFrameHdr, Function, Functions, Region, Site, Sites, each_frame};

const TEXT: u64 = 0x5555_0000_1000;
const HEADER: u64 = TEXT + 0x10_0000;
const FRAMES: u64 = TEXT + 0x20_0000;

fuzz_target!(|input: (&[u8], &[u8], &[u8], Vec<(u16, u16)>)| {
    let (text, header, frames, functions) = input;
    let text = Region { address: TEXT, bytes: text };
    let header = Region { address: HEADER, bytes: header };
    let frames = Region { address: FRAMES, bytes: frames };
    let _ = EhFrameHdr::frames(header);
    each_frame(frames, FRAMES, &mut |function| assert!(function.start < function.end));
    let tables = EhFrameHdr::parse(header, frames);
    if let Some(tables) = &tables {
        for index in 0..tables.len().min(1000) {
            let _ = tables.get(index);
        }
        let _ = tables.containing(TEXT + 5);
    }
    let mut made_up: Vec<Function> = Vec::new();
    let mut end = TEXT;
    for (gap, size) in functions {
        let start = end + u64::from(gap % 64);
        end = start + u64::from(size);
        made_up.push(Function::new(start, end));
    }
    let made_up: &[Function] = &made_up;
    judge(text, made_up);
    if let Some(tables) = &tables {
        judge(text, tables);
    }
});

fn judge<F: Functions + ?Sized>(text: Region<'_>, functions: &F) {
    let found = thunk::find(text.bytes).filter(|(_, thunk)| thunk.shape.takes_sites());
    let thunks: Vec<u64> = found.map(|(offset, _)| text.address + offset as u64).collect();
    let sites: Vec<Site> = Sites::new(text, &thunks, functions).filter_map(Result::ok).collect();
    for site in &sites {
        let insn = text.from(site.address).and_then(decode).expect("a site is an instruction");
        let target = insn.branch_target(site.address).expect("a site is a direct branch");
        assert!(thunks.contains(&target), "{site:x?} leads to {target:x}, no thunk");
        assert!(matches!(insn.flow, Flow::Call { .. } | Flow::Jump { .. } | Flow::Cond { .. }));
        assert!(functions.containing(site.address).is_some(), "{site:x?} lies in no function");
    }
}
