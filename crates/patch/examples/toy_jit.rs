//! A toy compiler in two tiers: expressions are compiled at once, badly, and again, better, while threads call them.
//!
//! `cargo run --release -p relpoline-patch --example toy_jit`
//!
//! Functions of one number are written behind each other: `x x *` is a square, `x square 2 3 * +` calls it. Each has a gate. Threads
//! call gates, and so does generated code, by a direct call; so when a function gets a better body, or another one, its callers go
//! there from the next call on without being compiled again, and the body that nobody is in any more is freed.

use relpoline_patch::code::{CodeError, Draft, Entry};
use relpoline_patch::gate::Gate;
use relpoline_patch::reclaim;
use relpoline_patch::space::Space;
use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

type Function = unsafe extern "C" fn(i64) -> i64;

/// A compiled program: functions by their names.
struct Jit {
    space: Arc<Space>,
    functions: BTreeMap<&'static str, Arc<Gate<Function>>>,
}

/// An expression.
#[derive(Clone, Debug)]
enum Expr {
    X,
    Constant(i32),
    Binary(char, Box<Expr>, Box<Expr>),
    Call(&'static str, Box<Expr>),
}

fn parse(source: &'static str) -> Option<Expr> {
    let mut stack = Vec::new();
    for word in source.split_whitespace() {
        let expr = match word {
            "x" => Expr::X,
            "+" | "-" | "*" => {
                let (right, left) = (stack.pop()?, stack.pop()?);
                Expr::Binary(word.chars().next()?, Box::new(left), Box::new(right))
            }
            _ => match word.parse() {
                Ok(number) => Expr::Constant(number),
                Err(_) => Expr::Call(word, Box::new(stack.pop()?)),
            },
        };
        stack.push(expr);
    }
    stack.pop().filter(|_| stack.is_empty())
}

fn calculated(op: char, left: i64, right: i64) -> i64 {
    match op {
        '+' => left.wrapping_add(right),
        '-' => left.wrapping_sub(right),
        _ => left.wrapping_mul(right),
    }
}

/// What an expression should be; the function that is called is a square.
fn interpreted(expr: &Expr, x: i64) -> i64 {
    match expr {
        Expr::X => x,
        Expr::Constant(number) => i64::from(*number),
        Expr::Binary(op, left, right) => calculated(*op, interpreted(left, x), interpreted(right, x)),
        Expr::Call(_, inside) => {
            let inside = interpreted(inside, x);
            inside.wrapping_mul(inside)
        }
    }
}

/// Code that is being generated, and the calls in it: where their displacements are, and whom they call.
#[derive(Default)]
struct Asm {
    bytes: Vec<u8>,
    calls: Vec<(usize, &'static str)>,
}

impl Asm {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn call(&mut self, name: &'static str) {
        self.put(&[0xe8]);
        self.calls.push((self.bytes.len(), name));
        self.put(&[0; 4]);
    }

    /// The first tier: a stack machine.
    fn stacked(&mut self, expr: &Expr) {
        match expr {
            Expr::X => self.put(&[0xff, 0x75, 0xf8]), // push -8(%rbp)
            Expr::Constant(number) => {
                self.put(&[0x68]); // push $number
                self.put(&number.to_le_bytes());
            }
            Expr::Binary(op, left, right) => {
                self.stacked(left);
                self.stacked(right);
                self.put(&[0x58]); // pop %rax
                self.put(match op {
                    '+' => &[0x48, 0x01, 0x04, 0x24],                             // add %rax, (%rsp)
                    '-' => &[0x48, 0x29, 0x04, 0x24],                             // sub %rax, (%rsp)
                    _ => &[0x48, 0x0f, 0xaf, 0x04, 0x24, 0x48, 0x89, 0x04, 0x24], // imul (%rsp), %rax; mov %rax, (%rsp)
                });
            }
            Expr::Call(name, inside) => {
                self.stacked(inside);
                self.put(&[0x5f]); // pop %rdi
                self.call(name);
                self.put(&[0x50]); // push %rax
            }
        }
    }

    /// The second tier: constants are folded, results lie in %rax, the argument in %rbx.
    fn registered(&mut self, expr: &Expr) {
        match expr {
            Expr::X => self.put(&[0x48, 0x89, 0xd8]), // mov %rbx, %rax
            Expr::Constant(number) => {
                self.put(&[0x48, 0xc7, 0xc0]); // mov $number, %rax
                self.put(&number.to_le_bytes());
            }
            Expr::Binary(op, left, right) => match &**right {
                Expr::Constant(number) => {
                    self.registered(left);
                    self.put(match op {
                        '+' => &[0x48, 0x05],     // add $number, %rax
                        '-' => &[0x48, 0x2d],     // sub $number, %rax
                        _ => &[0x48, 0x69, 0xc0], // imul $number, %rax, %rax
                    });
                    self.put(&number.to_le_bytes());
                }
                Expr::X => {
                    self.registered(left);
                    self.put(match op {
                        '+' => &[0x48, 0x01, 0xd8],     // add %rbx, %rax
                        '-' => &[0x48, 0x29, 0xd8],     // sub %rbx, %rax
                        _ => &[0x48, 0x0f, 0xaf, 0xc3], // imul %rbx, %rax
                    });
                }
                right => {
                    self.registered(right);
                    self.put(&[0x50]); // push %rax
                    self.registered(left);
                    self.put(&[0x59]); // pop %rcx
                    self.put(match op {
                        '+' => &[0x48, 0x01, 0xc8],
                        '-' => &[0x48, 0x29, 0xc8],
                        _ => &[0x48, 0x0f, 0xaf, 0xc1],
                    });
                }
            },
            Expr::Call(name, inside) => {
                self.registered(inside);
                self.put(&[0x48, 0x89, 0xc7]); // mov %rax, %rdi
                self.call(name);
            }
        }
    }
}

fn folded(expr: Expr) -> Expr {
    match expr {
        Expr::Binary(op, left, right) => match (folded(*left), folded(*right)) {
            (Expr::Constant(a), Expr::Constant(b)) => match i32::try_from(calculated(op, a.into(), b.into())) {
                Ok(number) => Expr::Constant(number),
                Err(_) => Expr::Binary(op, Box::new(Expr::Constant(a)), Box::new(Expr::Constant(b))),
            },
            (left, right) => Expr::Binary(op, Box::new(left), Box::new(right)),
        },
        Expr::Call(name, inside) => Expr::Call(name, Box::new(folded(*inside))),
        other => other,
    }
}

#[derive(Clone, Copy)]
enum Tier {
    First,
    Second,
}

impl Jit {
    fn new() -> Result<Jit, Box<dyn Error>> {
        Ok(Jit { space: Arc::new(Space::create(16 << 20)?), functions: BTreeMap::new() })
    }

    /// Compiles a body, for which the gates of all functions that it calls must be there.
    fn compile(&self, expr: &Expr, tier: Tier) -> Result<Entry<Function>, CodeError> {
        let mut asm = Asm::default();
        match tier {
            Tier::First => {
                asm.put(&[0x55, 0x48, 0x89, 0xe5, 0x57]); // push %rbp; mov %rsp, %rbp; push %rdi
                asm.stacked(expr);
                asm.put(&[0x58, 0x48, 0x89, 0xec, 0x5d, 0xc3]); // pop %rax; mov %rbp, %rsp; pop %rbp; ret
            }
            Tier::Second => {
                asm.put(&[0x53, 0x48, 0x89, 0xfb]); // push %rbx; mov %rdi, %rbx
                asm.registered(&folded(expr.clone()));
                asm.put(&[0x5b, 0xc3]); // pop %rbx; ret
            }
        }
        let mut draft = Draft::take(&self.space, asm.bytes.len())?;
        draft.write(0, &asm.bytes);
        for (field, name) in asm.calls {
            let gate = self.functions.get(name).ok_or(CodeError::NotThere)?;
            // All of a space reaches all of it.
            let rel = gate.address().wrapping_sub(draft.address(field + 4)) as u32;
            draft.write(field, &rel.to_le_bytes());
            draft.keep(gate.clone());
        }
        // SAFETY: a function of one number that calls functions of one number, whose gates it keeps.
        unsafe { Entry::new(&draft.publish(), 0) }
    }

    /// Defines a function, or gives it another body.
    fn define(&mut self, name: &'static str, expr: &Expr, tier: Tier) -> Result<(), CodeError> {
        let entry = self.compile(expr, tier)?;
        match self.functions.get(name) {
            Some(gate) => gate.lead_to(&entry),
            None => {
                self.functions.insert(name, Arc::new(Gate::new(&entry)?));
                Ok(())
            }
        }
    }
}

fn call(gate: &Gate<Function>, x: i64) -> i64 {
    // SAFETY: called where it lives. That code is this process', which has not forked.
    gate.enter(|f| unsafe { f(x) }).expect("not in a child")
}

/// Nanoseconds of a call, the least of many rounds.
fn measured(gate: &Gate<Function>) -> f64 {
    let round = || {
        let start = Instant::now();
        for x in 0..1000 {
            black_box(call(gate, black_box(x)));
        }
        start.elapsed().as_secs_f64() * 1e6
    };
    (0..300).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), Box<dyn Error>> {
    let square = parse("x x *").ok_or("no expression")?;
    let cube = parse("x x * x *").ok_or("no expression")?;
    let poly = parse("x square 2 3 * * x 7 1 + * - x 1 + square +").ok_or("no expression")?;
    let mut jit = Jit::new()?;
    jit.define("square", &square, Tier::First)?;
    jit.define("poly", &poly, Tier::First)?;
    let gate = jit.functions["poly"].clone();
    let first = measured(&gate);

    let stop = AtomicBool::new(false);
    let calls: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut calls = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let x = calls as i64 % 1000;
                        assert_eq!(call(&gate, x), interpreted(&poly, x));
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        // As a compiler does that finds functions hot, and changes its mind.
        for round in 0..2000 {
            let tier = if round % 2 == 0 { Tier::Second } else { Tier::First };
            jit.define("square", &square, tier).expect("compiled");
            jit.define("poly", &poly, if round % 3 == 0 { Tier::First } else { Tier::Second }).expect("compiled");
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("every call is right")).sum()
    });
    jit.define("square", &square, Tier::Second)?;
    jit.define("poly", &poly, Tier::Second)?;
    let second = measured(&gate);

    // Another body: the caller is not compiled again, and its very next call goes there.
    jit.define("square", &cube, Tier::Second)?;
    assert_eq!(call(&gate, 2), 2 * 2 * 2 * 6 - 2 * 8 + 3 * 3 * 3);
    reclaim::wait();
    reclaim::reap();
    println!("{calls} calls, 4,000 bodies, all right; {} bytes of code in use", jit.space.used());
    println!("first tier {first:.1} ns a call, second tier {second:.1} ns");
    drop((jit, gate));
    Ok(())
}
