//! What is found in an object: any bytes as text and unwind tables, any words as data. Every site is a direct branch to a
//! thunk, lies in a function, and was reached by reading instructions from its start.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_core::arch::decode::{Flow, decode};
use relpoline_core::arch::{Reg, thunk};
use relpoline_core::scan::{EhFrameHdr, Function, Functions, Gotos, Object, Region, Site, SiteKind, Sites};

const TEXT: u64 = 0x5555_0000_1000;
const HEADER: u64 = TEXT + 0x10_0000;
const FRAMES: u64 = TEXT + 0x20_0000;

fuzz_target!(|input: (&[u8], &[u8], &[u8], Vec<u64>, Vec<(u16, u16)>, bool)| {
    let (text, header, frames, words, functions, is_position_dependent) = input;
    let text = Region { address: TEXT, bytes: text };
    let tables =
        EhFrameHdr::parse(Region { address: HEADER, bytes: header }, Region { address: FRAMES, bytes: frames });
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
        made_up.push(Function { start, end, is_part: gap & 64 != 0 });
    }
    let made_up: &[Function] = &made_up;
    judge(text, made_up, &words, is_position_dependent);
    if let Some(tables) = &tables {
        judge(text, tables, &words, is_position_dependent);
    }
});

fn judge<F: Functions + ?Sized>(text: Region<'_>, functions: &F, words: &[u64], is_position_dependent: bool) {
    let found = thunk::find(text.bytes).filter(|(_, thunk)| thunk.shape.takes_sites());
    let (thunks, registers): (Vec<u64>, Vec<Reg>) =
        found.map(|(offset, thunk)| (text.address + offset as u64, thunk.reg)).unzip();
    let sites: Vec<Site> = Sites::new(text, &thunks, functions).filter_map(Result::ok).collect();
    for site in &sites {
        let insn = text.from(site.address).and_then(decode).expect("a site is an instruction");
        let target = insn.branch_target(site.address).expect("a site is a direct branch");
        assert!(thunks.contains(&target), "{site:x?} leads to {target:x}, no thunk");
        assert!(matches!(insn.flow, Flow::Call { .. } | Flow::Jump { .. } | Flow::Cond { .. }));
        assert!(functions.containing(site.address).is_some(), "{site:x?} lies in no function");
    }
    let object = Object { text, thunks: &thunks, registers: &registers, functions, is_position_dependent };
    let mut scratch = [0; 256];
    let mut gotos = Gotos::new(object, &mut scratch);
    sites.iter().for_each(|site| gotos.add_site(site));
    gotos.collect_leas();
    words.iter().for_each(|word| gotos.add_data_word(word.wrapping_add(text.address)));
    let mut verdicts = gotos.finish();
    for site in sites.iter().filter(|site| site.kind != SiteKind::Call) {
        let _ = verdicts.verdict(site);
    }
}
