//! A branch tree as the CPU sees it.

use std::collections::HashMap;

use relpoline_core::tree::Target;
use relpoline_core::tree::shape::{Fork, Walk, by_address};

use crate::cpu::Cpu;

struct Node {
    target: u64,
    below: Option<usize>,
    above: Option<usize>,
    /// Which side a second branch jumps to, if both exist.
    away: Option<Side>,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Below,
    Above,
}

/// A tree with the shape that `relpoline_core::tree` would emit.
pub struct Tree {
    /// Makes its branches differ from those of other trees.
    id: u64,
    pub targets: Vec<Target>,
    pub chain: usize,
    nodes: Vec<Node>,
}

/// How a call through a tree ended.
pub struct Passage {
    /// [1/16 cycle], without the direct call or the retpoline at its end.
    pub cost: u64,
    pub hit: bool,
    pub left_chain: bool,
}

impl Tree {
    pub fn new(id: u64, targets: &[Target], chain: usize) -> Tree {
        let chain = chain.min(targets.len());
        let search = &targets[chain..];
        let order = by_address(search);
        let at = |i: usize| search[usize::from(order[i])];
        let walk: Vec<_> = Walk::new(search.len(), |i| at(i).share).collect();
        let index: HashMap<(usize, usize), usize> = walk.iter().enumerate().map(|(i, n)| ((n.from, n.to), i)).collect();
        let nodes = walk
            .iter()
            .map(|n| Node {
                target: at(n.root).address,
                below: index.get(&(n.from, n.root)).copied(),
                above: index.get(&(n.root + 1, n.to)).copied(),
                away: match n.fork {
                    Fork::AboveFirst => Some(Side::Below),
                    Fork::BelowFirst => Some(Side::Above),
                    Fork::Leaf | Fork::One => None,
                },
            })
            .collect();
        Tree { id, targets: targets.to_vec(), chain, nodes }
    }

    pub fn holds(&self, target: u64) -> bool {
        self.targets.iter().any(|t| t.address == target)
    }

    pub fn pass(&self, target: u64, thread: u16, cpu: &mut Cpu) -> Passage {
        let mut cost = 0;
        let pc = |i: usize, second: bool| (self.id << 16) + (i as u64) * 32 + u64::from(second) * 13;
        for (i, t) in self.targets[..self.chain].iter().enumerate() {
            let hit = t.address == target;
            cost += u64::from(cpu.costs.compare) + cpu.branch(thread, pc(i, false), hit);
            if hit {
                return Passage { cost, hit, left_chain: false };
            }
        }
        let mut next = (!self.nodes.is_empty()).then_some(0);
        let left_chain = next.is_some();
        while let Some(n) = next {
            let (node, i) = (&self.nodes[n], self.chain + n);
            let hit = node.target == target;
            cost += u64::from(cpu.costs.node) + cpu.branch(thread, pc(i, false), hit);
            if hit {
                return Passage { cost, hit, left_chain };
            }
            let side = if target < node.target { Side::Below } else { Side::Above };
            next = match node.away {
                // With one side only, there is no second branch: values beyond the range go there too.
                None => node.below.or(node.above),
                Some(away) => {
                    cost += cpu.branch(thread, pc(i, true), side == away);
                    if side == Side::Below { node.below } else { node.above }
                }
            };
        }
        Passage { cost, hit: false, left_chain }
    }
}
