//! Functions that Cranelift compiles, exchanged while threads and other compiled functions call them.
//!
//! `cd crates/patch/cranelift && cargo run --release`
//!
//! Cranelift generates the bytes; where they lie, and how their calls are resolved, is this program's. A
//! direct call of another function is led to that function's gate, so it follows when that gets a new body,
//! without being compiled again. (cranelift-jit's own memory is written and executed at one address, at
//! different times, and lies elsewhere, so its functions have no gates here.)

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, Function as Ir, InstBuilder, MemFlags, Signature, UserExternalName,
    UserFuncName, condcodes::IntCC, types::I64,
};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, FinalizedRelocTarget, binemit::Reloc, isa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use relpoline_patch::code::{Draft, Entry};
use relpoline_patch::gate::Gate;
use relpoline_patch::reclaim;
use relpoline_patch::space::Space;
use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

type Function = unsafe extern "C" fn(i64) -> i64;
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const STEP: u32 = 0;
const SUM: u32 = 1;

/// How `sum` calls `step`.
#[derive(Clone, Copy)]
enum How {
    /// Directly, by its gate.
    Gate,
    /// By a pointer that it loads, as compilers do that cannot change code.
    Pointer,
}

/// Where compilers that cannot change code would keep a function's address.
static POINTER: AtomicU64 = AtomicU64::new(0);

struct Jit {
    isa: OwnedTargetIsa,
    space: Arc<Space>,
    gates: BTreeMap<u32, Arc<Gate<Function>>>,
}

impl Jit {
    fn new() -> Outcome<Jit> {
        let mut flags = settings::builder();
        flags.set("opt_level", "speed")?;
        let isa = isa::lookup_by_name("x86_64")?.finish(settings::Flags::new(flags))?;
        Ok(Jit { isa, space: Arc::new(Space::create(16 << 20)?), gates: BTreeMap::new() })
    }

    fn signature() -> Signature {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.push(AbiParam::new(I64));
        signature.returns.push(AbiParam::new(I64));
        signature
    }

    /// Compiles a function of one number and places it, its calls led to the gates of what they name.
    fn compile(&self, number: u32, body: impl FnOnce(&mut FunctionBuilder<'_>)) -> Outcome<Entry<Function>> {
        let mut context =
            Context::for_function(Ir::with_name_signature(UserFuncName::user(0, number), Self::signature()));
        let mut builders = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut context.func, &mut builders);
        body(&mut builder);
        builder.seal_all_blocks();
        builder.finalize();
        let compiled =
            context.compile(&*self.isa, &mut ControlPlane::default()).map_err(|error| format!("{:?}", error.inner))?;
        let relocations = compiled.buffer.relocs().to_vec();
        let mut draft = Draft::take(&self.space, compiled.code_buffer().len())?;
        draft.write(0, compiled.code_buffer());
        for reloc in relocations {
            let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = reloc.target else {
                return Err("a call of what has no gate".into());
            };
            let callee = context.func.params.user_named_funcs()[name].index;
            let gate =
                self.gates.get(&callee).filter(|_| reloc.kind == Reloc::X86CallPCRel4).ok_or("no gate to call")?;
            let field = reloc.offset as usize;
            let rel = gate.address().wrapping_sub(draft.address(field)).wrapping_add_signed(reloc.addend);
            draft.write(field, &(rel as u32).to_le_bytes());
            draft.keep(gate.clone());
        }
        // SAFETY: Cranelift compiled a function of this signature, which calls gates that it keeps.
        Ok(unsafe { Entry::new(&draft.publish(), 0) }?)
    }

    /// Gives a function a body.
    fn lead(&mut self, number: u32, entry: &Entry<Function>) -> Outcome<()> {
        match self.gates.get(&number) {
            Some(gate) => gate.lead_to(entry)?,
            None => drop(self.gates.insert(number, Arc::new(Gate::new(entry)?))),
        }
        Ok(())
    }

    /// `step(i) = i * factor`.
    fn step(&self, factor: i64) -> Outcome<Entry<Function>> {
        self.compile(STEP, |builder| {
            let block = builder.create_block();
            builder.append_block_params_for_function_params(block);
            builder.switch_to_block(block);
            let i = builder.block_params(block)[0];
            let product = builder.ins().imul_imm(i, factor);
            builder.ins().return_(&[product]);
        })
    }

    /// `sum(n)`: of `step(i)` for all `i` below `n`.
    fn sum(&self, how: How) -> Outcome<Entry<Function>> {
        self.compile(SUM, |builder| {
            let (entry, head, next, end) =
                (builder.create_block(), builder.create_block(), builder.create_block(), builder.create_block());
            builder.append_block_params_for_function_params(entry);
            for block in [head, next] {
                builder.append_block_param(block, I64);
                builder.append_block_param(block, I64);
            }
            builder.append_block_param(end, I64);
            builder.switch_to_block(entry);
            let n = builder.block_params(entry)[0];
            let zero = builder.ins().iconst(I64, 0);
            builder.ins().jump(head, &[zero.into(), zero.into()]);
            builder.switch_to_block(head);
            let (i, sum) = (builder.block_params(head)[0], builder.block_params(head)[1]);
            let more = builder.ins().icmp(IntCC::SignedLessThan, i, n);
            builder.ins().brif(more, next, &[i.into(), sum.into()], end, &[sum.into()]);
            builder.switch_to_block(next);
            let (i, sum) = (builder.block_params(next)[0], builder.block_params(next)[1]);
            let signature = builder.import_signature(Self::signature());
            let call = match how {
                How::Gate => {
                    let name = builder.func.declare_imported_user_function(UserExternalName::new(0, STEP));
                    // Near, so that the call is a direct one.
                    let data = ExtFuncData { name: ExternalName::user(name), signature, colocated: true };
                    let step = builder.import_function(data);
                    builder.ins().call(step, &[i])
                }
                How::Pointer => {
                    let at = builder.ins().iconst(I64, POINTER.as_ptr() as i64);
                    let step = builder.ins().load(I64, MemFlags::trusted(), at, 0);
                    builder.ins().call_indirect(signature, step, &[i])
                }
            };
            let value = builder.inst_results(call)[0];
            let sum = builder.ins().iadd(sum, value);
            let i = builder.ins().iadd_imm(i, 1);
            builder.ins().jump(head, &[i.into(), sum.into()]);
            builder.switch_to_block(end);
            let sum = builder.block_params(end)[0];
            builder.ins().return_(&[sum]);
        })
    }
}

fn call(gate: &Gate<Function>, x: i64) -> i64 {
    // SAFETY: called where it lives. That code is this process', which has not forked.
    gate.enter(|f| unsafe { f(x) }).expect("not in a child")
}

/// Nanoseconds of a step, the median of many rounds in which both take turns.
fn measured(gates: [&Gate<Function>; 2]) -> [f64; 2] {
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..300 {
        for (gate, samples) in gates.iter().zip(&mut samples) {
            let start = Instant::now();
            black_box(call(gate, black_box(10_000)));
            samples.push(start.elapsed().as_secs_f64() * 1e5);
        }
    }
    samples.map(|mut samples| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    })
}

fn main() -> Outcome<()> {
    let mut jit = Jit::new()?;
    let first = jit.step(1)?;
    jit.lead(STEP, &first)?;
    POINTER.store(first.address(), Ordering::Relaxed);
    let sum = jit.sum(How::Gate)?;
    jit.lead(SUM, &sum)?;
    let by_pointer = Gate::new(&jit.sum(How::Pointer)?)?;
    let gate = jit.gates[&SUM].clone();

    let stop = AtomicBool::new(false);
    let calls: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut calls = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // Each step is by one factor or another: of 1 to 100.
                        let seen = call(&gate, 4);
                        assert!((6..=600).contains(&seen), "{seen}");
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for factor in (1..=100).cycle().take(2000) {
            let step = jit.step(factor).expect("compiled");
            jit.lead(STEP, &step).expect("led");
            // Its caller was compiled once.
            assert_eq!(call(&gate, 5), 10 * factor);
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("every call is right")).sum()
    });
    jit.lead(STEP, &first)?;
    let [direct, pointer] = measured([&gate, &by_pointer]);
    reclaim::wait();
    reclaim::reap();
    println!("{calls} calls, 2,000 bodies, all right; {} bytes of code in use", jit.space.used());
    println!("a step of a loop: {direct:.2} ns by its gate, {pointer:.2} ns by a pointer");
    Ok(())
}
