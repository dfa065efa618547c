//! A model of the engine: one site, its gate and counters, driven by the real policy.

use relpoline_core::policy::workload::Call;
use relpoline_core::policy::{Action, CHAIN_MAX, Costs, Counters, Current, Event, Phase, Policy, Reason, SiteState};
use relpoline_core::trace::{Trace, WINDOW_MAX, entry};

use crate::cpu::Cpu;
use crate::tree::Tree;

/// Cycles for entering and leaving the slow path.
const SLOW_PATH: u64 = 1_000;

/// Sums of what happened.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub calls: u64,
    /// Cost of all calls, slow paths included [1/16 cycle].
    pub cost: u64,
    pub learnings: u32,
    pub trees: u32,
    pub resumes: u32,
    pub links: u32,
    pub misses: u64,
}

pub struct Engine {
    pub policy: Box<Policy>,
    pub site: SiteState,
    pub tree: Option<Tree>,
    pub tally: Tally,
    /// Whether jumps reach this address.
    pub reach: fn(u64) -> bool,
    cpu: Cpu,
    /// [1/16 cycle].
    clock: u64,
    /// By how much it is read wrongly [cycles].
    skew: i64,
    trace: Vec<u64>,
    window: usize,
    cold: u32,
    misses: u32,
    miss_window: u32,
    exits: u32,
    exit_window: u32,
    settle: u32,
    asked: u64,
    /// Every action with the clock reading.
    pub actions: Vec<(u64, Action)>,
}

impl Engine {
    /// On a machine that costs `truth`, with a policy that believes in `belief`.
    pub fn new(truth: Costs, belief: Costs) -> Engine {
        let mut policy = Box::new(Policy::new());
        policy.costs = belief;
        policy.budget.start(0, &policy.config.clone());
        let cold = policy.config.cold_calls;
        Engine {
            policy,
            site: SiteState::new(),
            tree: None,
            tally: Tally::default(),
            reach: |_| true,
            cpu: Cpu::new(truth),
            clock: 0,
            skew: 0,
            trace: Vec::new(),
            window: 0,
            cold,
            misses: 0,
            miss_window: 0,
            exits: 0,
            exit_window: 0,
            settle: 0,
            asked: 0,
            actions: Vec::new(),
        }
    }

    /// What the clock says.
    pub fn now(&self) -> u64 {
        (self.clock / 16).saturating_add_signed(self.skew)
    }

    /// The clock jumps, back when `cycles` is negative.
    pub fn clock_jumps(&mut self, cycles: i64) {
        self.skew += cycles;
    }

    /// The program does something else for `cycles`.
    pub fn work(&mut self, cycles: u32) {
        self.clock += u64::from(cycles) * 16;
        self.look_around();
    }

    /// Other sites' slow paths come by about once per ms.
    fn look_around(&mut self) {
        let now = self.now();
        if now.abs_diff(self.asked) >= u64::from(self.policy.costs.cycles_per_ms) {
            self.asked = now;
            if self.site.is_due(now) {
                self.event(Event::Due);
            }
        }
    }

    fn spend(&mut self, sixteenths: u64) {
        self.clock += sixteenths;
        self.tally.cost += sixteenths;
    }

    pub fn call(&mut self, call: &Call) {
        self.tally.calls += 1;
        match self.site.phase() {
            Phase::Cold => self.cold_call(),
            Phase::Learning => self.counted_call(call),
            Phase::Promoted | Phase::Linked => self.tree_call(call),
            Phase::Retpolined | Phase::Barred => self.spend(u64::from(self.cpu.costs.retpoline)),
        }
    }

    fn cold_call(&mut self) {
        // Counting down costs a bit.
        self.spend(u64::from(self.cpu.costs.retpoline) + 32);
        self.cold = self.cold.saturating_sub(1);
        if self.cold == 0 {
            self.event(Event::ColdExpired);
        }
    }

    fn counted_call(&mut self, call: &Call) {
        self.spend(u64::from(self.cpu.costs.counted_call));
        self.trace.push(entry(call.target, 0x7f00 | call.thread));
        if self.trace.len() >= self.window {
            let judged =
                u64::from(self.cpu.costs.judge) * 16 + self.trace.len() as u64 * u64::from(self.cpu.costs.judge_call);
            self.spend(judged);
            let trace = std::mem::take(&mut self.trace);
            let tree = self.tree.take();
            let current = tree.as_ref().map(|t| Current { targets: &t.targets, chain: t.chain });
            let event = Event::WindowFull { trace: Trace::new(&trace), current };
            let now = self.now();
            let action = self.policy.on(&mut self.site, event, now, &self.reach);
            self.trace = trace;
            self.tree = tree;
            self.apply(action);
        }
    }

    fn tree_call(&mut self, call: &Call) {
        let tree = self.tree.as_ref().expect("promoted without a tree");
        let passage = tree.pass(call.target, call.thread, &mut self.cpu);
        let linked = self.site.phase() == Phase::Linked;
        let gate = if linked { 0 } else { self.cpu.costs.gate };
        let end = if passage.hit { self.cpu.costs.direct } else { self.cpu.costs.retpoline };
        let counts_exits = self.exit_window > 0 && passage.left_chain;
        let exit = if counts_exits { self.cpu.costs.exit } else { 0 };
        self.spend(passage.cost + u64::from(gate + end + exit));
        if !passage.hit {
            self.tally.misses += 1;
            self.misses = self.misses.saturating_sub(1);
            if self.misses == 0 {
                return self.event(Event::MissWindow { misses: self.miss_window });
            }
        }
        if counts_exits {
            self.exits = self.exits.saturating_sub(1);
            if self.exits == 0 {
                return self.event(Event::ExitWindow { exits: self.exit_window });
            }
        }
        if !linked && self.settle > 0 {
            self.settle -= 1;
            if self.settle == 0 {
                self.event(Event::Settled);
            }
        }
    }

    fn event(&mut self, event: Event<'_>) {
        let now = self.now();
        let action = self.policy.on(&mut self.site, event, now, &self.reach);
        self.apply(action);
    }

    fn apply(&mut self, action: Action) {
        self.actions.push((self.now(), action));
        self.spend(SLOW_PATH * 16);
        match action {
            Action::None => {}
            Action::CountCold { calls } => self.cold = calls,
            Action::Learn { window } => {
                self.trace.clear();
                self.window = window as usize;
                self.tally.learnings += 1;
            }
            Action::ContinueLearning { window } => {
                assert!(window as usize > self.window && window as usize <= WINDOW_MAX);
                self.window = window as usize;
            }
            Action::Promote(counters) => {
                let plan = self.policy.plan();
                assert!(!plan.targets().is_empty() && plan.chain() <= CHAIN_MAX);
                let searched = &plan.targets()[plan.chain()..];
                assert!(searched.windows(2).all(|w| w[0].share >= w[1].share));
                assert!(plan.targets().iter().all(|t| (self.reach)(t.address)));
                assert_eq!(counters.exits > 0, plan.count_exits());
                self.tally.trees += 1;
                self.tree = Some(Tree::new(u64::from(self.tally.trees), plan.targets(), plan.chain()));
                self.start(counters);
                self.spend(u64::from(self.cpu.costs.patch) * 16);
            }
            Action::Resume(counters) => {
                assert!(self.tree.is_some(), "resumed without a tree");
                self.tally.resumes += 1;
                self.start(counters);
            }
            Action::Retpoline(reason) => {
                assert!(!matches!(reason, Reason::Promoted | Reason::Learning | Reason::Cold));
                self.tree = None;
            }
            Action::CountMisses { window } => (self.misses, self.miss_window) = (window, window),
            Action::CountExits { window } => (self.exits, self.exit_window) = (window, window),
            Action::CountSettle { calls } => self.settle = calls,
            Action::StopCounting => self.settle = 0,
            Action::Link => {
                self.tally.links += 1;
                self.spend(u64::from(self.cpu.costs.link) * 16);
            }
        }
    }

    fn start(&mut self, counters: Counters) {
        assert!(counters.misses > 0);
        (self.misses, self.miss_window) = (counters.misses, counters.misses);
        (self.exits, self.exit_window) = (counters.exits, counters.exits);
        self.settle = counters.settle;
    }
}
