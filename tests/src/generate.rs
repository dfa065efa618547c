//! Random C programs, for the promise that a program prints the same with the engine as without.
//!
//! A program is three layers of functions. Those of a layer are called through pointers by the layer above:
//! in loops, in tail position, from the operations of interpreters with computed gotos of several kinds, from
//! switches, through structures of pointers, with doubles and structures as arguments, recursively, and from
//! libc (`qsort`). Which ones are called depends on a number that changes from phase to phase, in each thread
//! in another way, so promoted sites have to learn anew. Everything ends up in sums that are printed. All
//! arithmetic is unsigned: there is no undefined behaviour.

use std::fmt::Write;

/// How a program was generated: the same seed gives the same program.
#[derive(Debug)]
pub struct Generator {
    state: u64,
    out: String,
}

/// Functions of a layer, and what their table is called.
struct Layer {
    table: &'static str,
    size: u64,
}

const HEAD: &str = "\
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
typedef unsigned long word;
typedef word function(word);
struct pair { word a; double b; };
typedef word mixer(word, double, struct pair, float);
typedef word walker(word, int);
struct operations { function *first, *second; };
#define OPAQUE __attribute__((noinline))
static __thread word shift;
";

impl Generator {
    /// One for this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, out: String::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % bound
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// A program's source.
    #[must_use]
    pub fn program(mut self) -> String {
        self.line(HEAD);
        let leaves = Layer { table: "leaves", size: 2 + self.below(30) };
        for n in 0..leaves.size {
            let body = self.arithmetic("x", 3);
            self.line(&format!("static OPAQUE word leaves_{n}(word x) {{ {body} return x + {n}; }}"));
        }
        self.table(&leaves);
        self.mixers(&leaves);
        self.walkers(&leaves);
        self.structures(&leaves);
        let middle = Layer { table: "middle", size: 3 + self.below(6) };
        for n in 0..middle.size {
            self.function(&middle, n, &leaves);
        }
        self.table(&middle);
        let top = Layer { table: "top", size: 2 + self.below(3) };
        for n in 0..top.size {
            self.function(&top, n, &middle);
        }
        self.table(&top);
        self.main(&top);
        self.out
    }

    /// Volatile: what is in it is not known to the compiler.
    fn table(&mut self, layer: &Layer) {
        let names: String = (0..layer.size).map(|n| format!("{}_{n}, ", layer.table)).collect();
        self.line(&format!("static function *volatile {}[] = {{ {names}}};", layer.table));
    }

    /// A few statements that change `x`.
    fn arithmetic(&mut self, x: &str, most: u64) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.below(most) {
            let (by, constant) = (1 + self.below(63), self.below(1 << 40) | 1);
            let statement = match self.below(8) {
                0 => format!("{x} += {constant}ul;"),
                1 => format!("{x} *= {constant}ul;"),
                2 => format!("{x} ^= {x} >> {by};"),
                3 => format!("{x} = {x} << {by} | {x} >> {};", 64 - by),
                4 => format!("if ({x} & {by}) {x} -= {constant}ul; else {x} = ~{x};"),
                5 => format!("{x} = {x} / {constant}ul + {x} % {constant}ul;"),
                6 => format!("{x} += (word)((double)({x} & 1023) * 1.5);"),
                _ => format!("{x} ^= {constant}ul;"),
            };
            // Writing to a string does not fail.
            let _ = write!(text, "{statement} ");
        }
        text
    }

    /// A call of one of a layer, through its table.
    fn call(&mut self, layer: &Layer, argument: &str) -> String {
        let (Layer { table, size }, some) = (layer, 1 + self.below(layer.size));
        match self.below(5) {
            0 => format!("{table}[{}]({argument})", self.below(*size)),
            1 => format!("{table}[shift % {size}]({argument})"),
            2 => format!("{table}[(shift + (x & 1)) % {size}]({argument})"),
            3 => format!("{table}[x % {some}]({argument})"),
            _ => format!("{table}[(shift + x % 8 / 7) % {size}]({argument})"),
        }
    }

    fn function(&mut self, layer: &Layer, n: u64, below: &Layer) {
        let name = format!("static OPAQUE word {}_{n}(word x)", layer.table);
        match self.below(8) {
            0 => self.tail(&name, below),
            1 | 2 => self.interpreter(&name, below),
            3 => self.switch(&name, below),
            4 => {
                self.line(&format!("{name} {{ x += mixers[x % MIXERS](x, (double)(x & 255), (struct pair){{ x, 0.5 }}, 2); return x; }}"));
            }
            5 => self.line(&format!("{name} {{ return walkers[x % WALKERS](x, 6); }}")),
            6 => {
                self.line(&format!(
                    "{name} {{ const struct operations *o = &operations[(shift + x % 2) % OPERATIONS];"
                ));
                self.line("  x ^= o->first(x); return o->second(x) + x; }");
            }
            _ => self.looping(&name, below),
        }
    }

    fn tail(&mut self, name: &str, below: &Layer) {
        let (statements, call) = (self.arithmetic("x", 4), self.call(below, "x ^ 5"));
        self.line(&format!("{name} {{ {statements} return {call}; }}"));
    }

    fn looping(&mut self, name: &str, below: &Layer) {
        let (times, call) = (1 + self.below(12), self.call(below, "x + i"));
        let statements = self.arithmetic("x", 2);
        self.line(&format!(
            "{name} {{ for (word i = 0; i < {times}; i++) {{ x += {call}; {statements} }} return x; }}"
        ));
    }

    /// Labels come from a table, as distances from one of them, or encoded; and where operations ask before
    /// the goto what they ask again behind it, the compiler may carry flags over.
    fn interpreter(&mut self, name: &str, below: &Layer) {
        let (operations, length) = (2 + self.below(10), 8 + self.below(40));
        let code: String = (0..length).map(|_| format!("{}, ", self.below(operations))).collect();
        let base = format!("&&operation_{}", self.below(operations));
        let (element, from, address) = match self.below(4) {
            0 => ("const int", format!(" - {base}"), format!("(void *)((const char *){base} + labels[*at++])")),
            1 => ("const short", format!(" - {base}"), format!("(void *)((const char *){base} + labels[*at++])")),
            2 => ("word", String::new(), "(void *)(*(volatile word *)&coded[*at++] ^ 0x5a5a5a5a5a5aul)".to_owned()),
            _ => ("const void *const", String::new(), "labels[*at++]".to_owned()),
        };
        let next = match self.below(2) {
            0 => format!("goto *{address};"),
            _ => format!("z += x < y; goto *{address};"),
        };
        let again = if next.starts_with('z') { "if (x < y) z ^= x;" } else { "" };
        let names = (0..operations).map(|n| format!("operation_{n}")).chain(["end".to_owned()]);
        self.line(&format!("{name} {{"));
        if element == "word" {
            let stores: String =
                names.enumerate().map(|(n, l)| format!("coded[{n}] = (word)&&{l} ^ 0x5a5a5a5a5a5aul; ")).collect();
            self.line(&format!("  word coded[{}]; {stores}", operations + 1));
        } else {
            let labels: String = names.map(|label| format!("&&{label}{from}, ")).collect();
            self.line(&format!("  static {element} labels[] = {{ {labels}}};"));
        }
        self.line(&format!("  static const unsigned char code[] = {{ {code}{operations} }};"));
        self.line(&format!("  const unsigned char *at = code; word y = x, z = 0;\n  {next}"));
        for n in 0..operations {
            let body = match self.below(4) {
                0 => format!("x += {};", self.call(below, "x")),
                1 => "y ^= x; if (y & 1) x += 3;".to_owned(),
                _ => self.arithmetic("x", 2),
            };
            self.line(&format!("  operation_{n}: {again} {body} {next}"));
        }
        self.line("  end: return x ^ y ^ z;\n}");
    }

    fn switch(&mut self, name: &str, below: &Layer) {
        let cases = 4 + self.below(20);
        self.line(&format!("{name} {{\n  for (int i = 0; i < 3; i++) switch (x % {cases}) {{"));
        for n in 0..cases {
            let body =
                if self.below(3) == 0 { format!("x += {};", self.call(below, "x")) } else { self.arithmetic("x", 2) };
            let end = if self.below(6) == 0 { "/* fall through */" } else { "break;" };
            self.line(&format!("  case {n}: {body} {end}"));
        }
        self.line("  default: x++;\n  }\n  return x;\n}");
    }

    fn mixers(&mut self, leaves: &Layer) {
        let count = 1 + self.below(5);
        for n in 0..count {
            let call = self.call(leaves, "x + p.a");
            self.line(&format!("static OPAQUE word mixer_{n}(word x, double d, struct pair p, float f) {{"));
            self.line(&format!("  return {call} + (word)(d * {} + p.b + f); }}", n + 2));
        }
        let names: String = (0..count).map(|n| format!("mixer_{n}, ")).collect();
        self.line(&format!("#define MIXERS {count}\nstatic mixer *volatile mixers[] = {{ {names}}};"));
    }

    fn walkers(&mut self, leaves: &Layer) {
        let count = 1 + self.below(4);
        self.line(&format!("#define WALKERS {count}\nstatic walker *volatile walkers[WALKERS];"));
        for n in 0..count {
            let (statements, call) = (self.arithmetic("x", 2), self.call(leaves, "x"));
            self.line(&format!("static OPAQUE word walker_{n}(word x, int depth) {{ {statements}"));
            self.line(&format!("  return depth ? walkers[(x + {n}) % WALKERS](x + 1, depth - 1) : {call}; }}"));
        }
        let stores: String = (0..count).map(|n| format!("walkers[{n}] = walker_{n}; ")).collect();
        self.line(&format!("__attribute__((constructor)) static void set_walkers(void) {{ {stores}}}"));
    }

    fn structures(&mut self, leaves: &Layer) {
        let count = 1 + self.below(6);
        let one = |n: u64| format!("{{ leaves_{}, leaves_{} }}, ", n % leaves.size, (n * 7 + 1) % leaves.size);
        let all: String = (0..count).map(one).collect();
        self.line(&format!("#define OPERATIONS {count}\nstatic const struct operations operations[] = {{ {all}}};"));
    }

    fn main(&mut self, top: &Layer) {
        let (phases, rounds, threads) = (2 + self.below(5), 1500 + self.below(2500), 1 + self.below(3));
        let step = 1 + self.below(5);
        self.line("static int by_low_bits(const void *a, const void *b) { word x = *(const word *)a % 1000, y = *(const word *)b % 1000;");
        self.line("  word z = leaves[shift % 2](x); return x == y ? (int)(z & 0) : x < y ? -1 : 1; }");
        self.line("struct work { pthread_t thread; word seed, sums[16]; };");
        self.line("static void *run(void *argument) {\n  struct work *w = argument; word x = w->seed, sorted[64];");
        self.line(&format!(
            "  for (word phase = 0; phase < {phases}; phase++) {{ shift = phase * {step} + w->seed % 3;"
        ));
        let call = self.call(top, "x + i");
        self.line(&format!("    for (word i = 0; i < {rounds}; i++) x += {call};"));
        self.line("    for (word i = 0; i < 64; i++) sorted[i] = x * (2 * i + 1);");
        self.line("    qsort(sorted, 64, sizeof *sorted, by_low_bits);");
        self.line("    for (word i = 0; i < 64; i++) w->sums[phase] = w->sums[phase] * 31 + sorted[i] % 1000;");
        self.line("    w->sums[phase] += x; }\n  return NULL; }");
        self.line(&format!("int main(void) {{ static struct work all[{threads}];"));
        self.line(&format!("  for (word t = 0; t < {threads}; t++) {{ all[t].seed = t * 77 + 1; pthread_create(&all[t].thread, NULL, run, &all[t]); }}"));
        self.line(&format!("  for (word t = 0; t < {threads}; t++) pthread_join(all[t].thread, NULL);"));
        self.line(&format!("  for (word t = 0; t < {threads}; t++) for (word p = 0; p < {phases}; p++) printf(\"%lu %lu %lx\\n\", t, p, all[t].sums[p]);"));
        let status = self.below(3) * 7;
        self.line(&format!("  return {status};\n}}"));
    }
}
