/* Relpoline for C and C++: static keys, static calls and dynamic calls, patched into the running program.
 *
 * Generated from crates/relpoline/src/c.rs and src/c/macros.h; do not edit. C11 with GNU extensions, or C++11;
 * gcc 8 or clang 9 and later. Link with librelpoline.a or librelpoline.so:
 *
 *     cargo rustc --release -p relpoline --features c --crate-type staticlib
 *
 * Elsewhere than on x86-64 Linux, and with RELPOLINE_NO_PATCH defined, the same source compiles to loads and
 * plain calls. Definitions stand outside of functions. A key or call can be used in the module (executable or
 * library) that defines it; names are those of C, also in C++ namespaces, so they are unique in a module. Not
 * to be compiled with -flto: the assembly names symbols.
 */

#ifndef RELPOLINE_H
#define RELPOLINE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Why a change could not be made: see `relpoline_error_text`.
typedef enum {
  // It was made.
  RELPOLINE_OK = 0,
  // `/proc/self/mem` cannot be opened.
  RELPOLINE_TEXT_UNAVAILABLE = 1,
  // The kernel refuses to write to the program's text.
  RELPOLINE_TEXT_REFUSED = 2,
  // Something else patches the program's text.
  RELPOLINE_TEXT_CHANGED = 3,
  // It was made, but membarrier(2) is refused.
  RELPOLINE_UNFENCED = 4,
} relpoline_error;

// What a dynamic call is doing.
typedef enum {
  // Nothing is learned here.
  RELPOLINE_PLAIN = 0,
  // Calls are counted.
  RELPOLINE_COLD = 1,
  // Targets are recorded.
  RELPOLINE_LEARNING = 2,
  // A tree and the plain call take turns.
  RELPOLINE_TIMED = 3,
  // Calls go through a tree.
  RELPOLINE_PROMOTED = 4,
  // Calls go through the pointer, since a tree would not be faster.
  RELPOLINE_UNPROMOTED = 5,
  // Told to pause.
  RELPOLINE_PAUSED = 6,
  // Given its targets.
  RELPOLINE_PINNED = 7,
} relpoline_state;

// A static key. Define it by `RELPOLINE_STATIC_KEY`.
typedef struct {
  // Users that have it on; to be read atomically.
  uint32_t count;
  // Whether it was on when the program started.
  bool initially;
  // Its name, not terminated.
  const char *name;
  // Length of its name.
  size_t name_length;
} relpoline_key;

// A key and what it is to become.
typedef struct {
  // The key.
  const relpoline_key *key;
  // Its new value.
  bool on;
} relpoline_key_change;

// Any function, to be cast.
typedef void (*relpoline_function)(void);

// A static call's state. Define it by `RELPOLINE_STATIC_CALL`.
typedef struct {
  // Where it goes; to be read atomically.
  relpoline_function target;
  // Where it went when the program started.
  relpoline_function initial;
  // Its name, not terminated.
  const char *name;
  // Length of its name.
  size_t name_length;
  // The library's own; 0 to begin with.
  uint64_t way;
} relpoline_call;

// A dynamic call's state. Define it by `RELPOLINE_DYNAMIC_CALL`.
typedef struct {
  // The library's own; 0 to begin with.
  uint32_t id;
  // Number of the register that targets travel in.
  uint8_t target_register;
  // Its name, not terminated.
  const char *name;
  // Length of its name.
  size_t name_length;
} relpoline_dynamic;

// A target that was learned.
typedef struct {
  // Address of the function.
  size_t address;
  // Its share of calls when it was learned, 0 to 1.
  double share;
} relpoline_target;

// What a dynamic call has learned and done.
typedef struct {
  // What it is doing.
  relpoline_state state;
  // Times it learned anew.
  uint32_t relearnings;
  // Times its gate was re-pointed.
  uint32_t patches;
  // Targets that were learned last: how many. The hottest of them are in `targets`.
  uint32_t target_count;
  // Calls through trees, if `relpoline_dynamic_count_calls` asked for them.
  uint64_t hits;
  // Calls that no tree had a target for, in whole windows.
  uint64_t misses;
  // The hottest targets.
  relpoline_target targets[16];
} relpoline_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What a `relpoline_error` means and what to do about it, in a sentence; terminated, and never to be freed.
const char *relpoline_error_text(int error);

// Switches a key on or off. Once this has returned, every later branch on any thread takes the new
// direction.
//
// # Safety
// `k` was defined by `RELPOLINE_STATIC_KEY`.
relpoline_error relpoline_key_set(const relpoline_key *k, bool on);

// Adds a user: the first one switches the key on.
//
// # Safety
// As for `relpoline_key_set`.
relpoline_error relpoline_key_inc(const relpoline_key *k);

// Removes a user: the last one switches the key off. Without users it does nothing.
//
// # Safety
// As for `relpoline_key_set`.
relpoline_error relpoline_key_dec(const relpoline_key *k);

// Switches `count` keys in one go: all of them change or none does.
//
// # Safety
// `changes` points to `count` changes, whose keys are as for `relpoline_key_set`.
relpoline_error relpoline_keys_set(const relpoline_key_change *changes, size_t count);

// How many branches on a key there are, and through `falling_through` (unless null) how many of them cost
// nothing right now.
//
// # Safety
// As for `relpoline_key_set`; `falling_through` is null or writable.
size_t relpoline_key_sites(const relpoline_key *k, size_t *falling_through);

// Lets calls go to `target`: every call that begins after this has returned does. The macro
// `relpoline_update` checks types.
//
// # Safety
// `c` was defined by `RELPOLINE_STATIC_CALL`; `target` is a function of its type, or null for the first one.
relpoline_error relpoline_call_update(const relpoline_call *c, relpoline_function target);

// Whether calls take direct jumps; otherwise they jump through a pointer.
//
// # Safety
// As for `relpoline_call_update`.
bool relpoline_call_is_direct(const relpoline_call *c);

// What a static call without a target goes to: it returns 0, in whatever register, or nothing.
size_t relpoline_return_zero(void);

// What a dynamic call has learned and done so far.
//
// # Safety
// `d` was defined by `RELPOLINE_DYNAMIC_CALL`; `stats` is writable.
void relpoline_dynamic_stats(const relpoline_dynamic *d, relpoline_stats *stats);

// Leaves a dynamic call to the pointer until `relpoline_dynamic_forget`.
//
// # Safety
// As for `relpoline_dynamic_stats`.
void relpoline_dynamic_pause(const relpoline_dynamic *d);

// Forgets what a dynamic call learned, or was given, and learns again.
//
// # Safety
// As for `relpoline_dynamic_stats`.
void relpoline_dynamic_forget(const relpoline_dynamic *d);

// Counts calls through trees exactly, or stops doing so. Begins anew.
//
// # Safety
// As for `relpoline_dynamic_stats`.
void relpoline_dynamic_count_calls(const relpoline_dynamic *d, bool on);

// Promotes without timing the tree against the plain call first, or with it. Begins anew.
//
// # Safety
// As for `relpoline_dynamic_stats`.
void relpoline_dynamic_always_promote(const relpoline_dynamic *d, bool on);

// Gives a dynamic call its targets, hottest first, at most 16. Returns whether a tree could be built.
//
// # Safety
// As for `relpoline_dynamic_stats`; `targets` points to `count` functions.
bool relpoline_dynamic_pin(const relpoline_dynamic *d, const void *const *targets, size_t count);

// Brings every site into the form that needs no system calls: see the Rust function of this name.
relpoline_error relpoline_prepare_for_sandbox(void);

// Called by what the macros leave in every module; not to be called by hand.
//
// # Safety
// `start` to `end` is the module's section of sites.
void relpoline_register(void *start, void *end);

// Called by what the macros leave in every module; not to be called by hand.
//
// # Safety
// `start` is what the module was registered with.
void relpoline_unregister(void *start);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RELPOLINE_H */

/* ---- What follows is src/c/macros.h: the parts that are assembly. ---- */

#ifndef RELPOLINE_NO_PATCH
#if !(defined(__x86_64__) && defined(__LP64__) && defined(__linux__) && defined(__GNUC__))
#define RELPOLINE_NO_PATCH
#endif
#endif

#ifdef __cplusplus
#include <type_traits>
#define RELPOLINE_C_ extern "C"
#define RELPOLINE_ASSERT_ static_assert
#else
#define RELPOLINE_C_ extern
#define RELPOLINE_ASSERT_ _Static_assert
#endif

#define RELPOLINE_LIST_(...) __VA_ARGS__
#define RELPOLINE_HIDDEN_ __attribute__((visibility("hidden")))
#define RELPOLINE_USED_ __attribute__((used))

/* -- Static keys ---------------------------------------------------------
 *
 *   RELPOLINE_STATIC_KEY(tracing, false);              in one source file, outside of functions
 *   RELPOLINE_DECLARE_STATIC_KEY(tracing);             in a header, for the others of the same module
 *
 *   if (relpoline_unlikely(tracing)) trace();          costs one instruction that reads nothing while it is off
 *   if (relpoline_likely(checking)) check();           the same while it is on
 *
 *   relpoline_key_set(&tracing, true);                 from any thread, while others run
 */
#define RELPOLINE_DECLARE_STATIC_KEY(key)                                                \
    RELPOLINE_C_ relpoline_key key __asm__("relpoline_key_" #key) RELPOLINE_HIDDEN_; \
    RELPOLINE_BRANCH_(key, unlikely, 0, false)                                       \
    RELPOLINE_BRANCH_(key, likely, 1, true)                                          \
    RELPOLINE_C_ relpoline_key key
#define RELPOLINE_STATIC_KEY(key, initially) \
    RELPOLINE_DECLARE_STATIC_KEY(key);       \
    RELPOLINE_USED_ relpoline_key key = {(initially) ? 1u : 0u, (initially), #key, sizeof(#key) - 1}

/* The value itself, by a load. */
#define relpoline_key_is_enabled(key) (__atomic_load_n(&(key)->count, __ATOMIC_RELAXED) != 0)

#define relpoline_unlikely(key) relpoline_unlikely_##key()
#define relpoline_likely(key) relpoline_likely_##key()

/* -- Static calls --------------------------------------------------------
 *
 *   RELPOLINE_STATIC_CALL(checksum, uint32_t, (const uint8_t *p, size_t n), (p, n), checksum_portable);
 *   RELPOLINE_STATIC_CALL(trace, void, (int event), (event), NULL);      does nothing, or returns 0
 *   RELPOLINE_DECLARE_STATIC_CALL(checksum, uint32_t, (const uint8_t *p, size_t n), (p, n));
 *
 *   uint32_t sum = checksum(p, n);                       costs a direct call
 *   relpoline_update(checksum, checksum_avx2);           from any thread, while others call; returns relpoline_error
 *   relpoline_call_update(&checksum_state, NULL);        back to the first target
 */
#define RELPOLINE_STATIC_CALL(name, ret, params, arguments, function)        \
    RELPOLINE_DECLARE_STATIC_CALL(name, ret, params, arguments);              \
    RELPOLINE_USED_ relpoline_call name##_state = {RELPOLINE_TARGET_(ret, params, function),  \
                                   RELPOLINE_TARGET_(ret, params, function),  \
                                   #name, sizeof(#name) - 1, 0};              \
    RELPOLINE_CALL_GATE_(name)

#define relpoline_update(name, function) \
    relpoline_call_update(&name##_state, (relpoline_function)(1 ? (function) : (name##_type_ *)0))

#ifdef __cplusplus
#define RELPOLINE_TARGET_(ret, params, function)                                                       \
    ((std::is_same<decltype(function), std::nullptr_t>::value || std::is_integral<decltype(function)>::value) \
         ? (relpoline_function)relpoline_return_zero                                                      \
         : (relpoline_function)(ret(*) params)(function))
#else
#define RELPOLINE_TARGET_(ret, params, function)                                               \
    __builtin_choose_expr(__builtin_types_compatible_p(__typeof__(function), void *) ||        \
                              __builtin_types_compatible_p(__typeof__(function), int),         \
                          (relpoline_function)relpoline_return_zero, (relpoline_function)(function))
#endif

/* -- Dynamic calls -------------------------------------------------------
 *
 *   RELPOLINE_DYNAMIC_CALL(deliver, bool, (struct packet *p, int port), (p, port), 2);
 *   RELPOLINE_DECLARE_DYNAMIC_CALL(deliver, bool, (struct packet *p, int port), (p, port), 2);
 *
 *   bool ok = deliver(handler, p, port);                 calls handler(p, port), and learns what handler is
 *   relpoline_dynamic_stats(&deliver_state, &stats);
 *
 * The number at the end says how many of the arguments' words are integers or pointers, one more if the result is
 * a structure that is returned in memory: 0 to 5. The compiler checks it. Arguments are scalars; at least one.
 */
#define RELPOLINE_DYNAMIC_CALL(name, ret, params, arguments, integers)                    \
    RELPOLINE_DECLARE_DYNAMIC_CALL(name, ret, params, arguments, integers);               \
    RELPOLINE_USED_ relpoline_dynamic name##_state = {0, RELPOLINE_NUMBER_##integers, #name, sizeof(#name) - 1}; \
    RELPOLINE_TABLE_GATE_(name, integers)

#define RELPOLINE_NUMBER_0 7
#define RELPOLINE_NUMBER_1 6
#define RELPOLINE_NUMBER_2 2
#define RELPOLINE_NUMBER_3 1
#define RELPOLINE_NUMBER_4 8
#define RELPOLINE_NUMBER_5 9

/* How many integer registers scalars take as arguments. */
#ifdef __cplusplus
namespace relpoline_detail {
template <class... T>
struct integers;
template <>
struct integers<> {
    static constexpr int value = 0;
};
template <class T, class... Rest>
struct integers<T, Rest...> {
    static_assert(std::is_scalar<T>::value || std::is_reference<T>::value || sizeof(T) == 16,
                  "an argument of a dynamic call must be a scalar: pass it by pointer");
    static constexpr int words = std::is_reference<T>::value ? 1 : (int)(sizeof(T) + 7) / 8;
    static constexpr int value = (std::is_floating_point<T>::value ? 0 : words) + integers<Rest...>::value;
};
template <class Result>
struct hidden {
    static_assert(std::is_trivially_copyable<Result>::value, "the result of a dynamic call must be a scalar or a plain structure");
    static constexpr int value = !std::is_scalar<Result>::value && sizeof(Result) > 16;
};
template <class T>
struct hidden<T &> {
    static constexpr int value = 0;
};
template <>
struct hidden<void> {
    static constexpr int value = 0;
};
template <class F>
struct signature;
template <class Result, class... T>
struct signature<Result(T...)> {
    static constexpr int value = hidden<Result>::value + integers<T...>::value;
};
}  // namespace relpoline_detail
#define RELPOLINE_INTEGERS_(name, ret, arguments) relpoline_detail::signature<name##_type_>::value
#else
#define RELPOLINE_WORDS_(x) \
    ((int)_Generic((x), float: 0, double: 0, long double: 0, default: (sizeof(x) + 7) / 8) + 0 * (int)sizeof(!(x)))
#define RELPOLINE_SUM_1_(a) RELPOLINE_WORDS_(a)
#define RELPOLINE_SUM_2_(a, ...) RELPOLINE_WORDS_(a) + RELPOLINE_SUM_1_(__VA_ARGS__)
#define RELPOLINE_SUM_3_(a, ...) RELPOLINE_WORDS_(a) + RELPOLINE_SUM_2_(__VA_ARGS__)
#define RELPOLINE_SUM_4_(a, ...) RELPOLINE_WORDS_(a) + RELPOLINE_SUM_3_(__VA_ARGS__)
#define RELPOLINE_SUM_5_(a, ...) RELPOLINE_WORDS_(a) + RELPOLINE_SUM_4_(__VA_ARGS__)
#define RELPOLINE_SUM_6_(a, ...) RELPOLINE_WORDS_(a) + RELPOLINE_SUM_5_(__VA_ARGS__)
#define RELPOLINE_SUM_7_(a, ...) RELPOLINE_WORDS_(a) + RELPOLINE_SUM_6_(__VA_ARGS__)
#define RELPOLINE_SUM_8_(a, ...) RELPOLINE_WORDS_(a) + RELPOLINE_SUM_7_(__VA_ARGS__)
#define RELPOLINE_PICK_(a, b, c, d, e, f, g, h, sum, ...) sum
#define RELPOLINE_SUM_(...)                                                                                         \
    RELPOLINE_PICK_(__VA_ARGS__, RELPOLINE_SUM_8_, RELPOLINE_SUM_7_, RELPOLINE_SUM_6_, RELPOLINE_SUM_5_,            \
                    RELPOLINE_SUM_4_, RELPOLINE_SUM_3_, RELPOLINE_SUM_2_, RELPOLINE_SUM_1_, 0)(__VA_ARGS__)
#define RELPOLINE_INTEGERS_(name, ret, arguments) (RELPOLINE_SUM_ arguments + ((__extension__ sizeof(ret)) > 16))
#endif

#define RELPOLINE_DECLARE_DYNAMIC_CALL(name, ret, params, arguments, integers)                                    \
    typedef ret name##_type_ params;                                                                              \
    RELPOLINE_C_ relpoline_dynamic name##_state __asm__("relpoline_dynamic_" #name) RELPOLINE_HIDDEN_;            \
    RELPOLINE_DECLARE_TABLE_GATE_(name, ret, params)                                                              \
    __attribute__((always_inline)) static inline ret name(ret(*relpoline_target_) params, RELPOLINE_LIST_ params) { \
        RELPOLINE_ASSERT_(RELPOLINE_INTEGERS_(name, ret, arguments) == (integers),                                \
                          "the last argument of RELPOLINE_DYNAMIC_CALL(" #name ", ...) is not the number of "     \
                          "integer and pointer words");                                                           \
        return RELPOLINE_CALL_TABLE_(name, arguments);                                                            \
    }                                                                                                             \
    RELPOLINE_ASSERT_((integers) <= 5, "a dynamic call needs a free integer register")

#ifdef RELPOLINE_NO_PATCH

#define RELPOLINE_BRANCH_(key, form, kind, ahead)                                              \
    __attribute__((always_inline, unused)) static inline bool relpoline_##form##_##key(void) { \
        return relpoline_key_is_enabled(&key);                                                 \
    }
#define RELPOLINE_DECLARE_STATIC_CALL(name, ret, params, arguments)                                          \
    typedef ret name##_type_ params;                                                                         \
    RELPOLINE_C_ relpoline_call name##_state __asm__("relpoline_call_" #name) RELPOLINE_HIDDEN_;             \
    __attribute__((always_inline)) static inline ret name params {                                           \
        return ((name##_type_ *)__atomic_load_n(&name##_state.target, __ATOMIC_ACQUIRE)) arguments;          \
    }                                                                                                        \
    RELPOLINE_C_ relpoline_call name##_state
#define RELPOLINE_CALL_GATE_(name) RELPOLINE_C_ relpoline_call name##_state
#define RELPOLINE_DECLARE_TABLE_GATE_(name, ret, params)
#define RELPOLINE_TABLE_GATE_(name, integers) RELPOLINE_C_ relpoline_dynamic name##_state
#define RELPOLINE_CALL_TABLE_(name, arguments) relpoline_target_ arguments

#else

/* The module's list of sites, and what registers it; the same as in src/patched/asm.rs. Label 2 is the site;
 * `percent` is how a register begins, which asm with operands doubles. */
#define RELPOLINE_SITES_ "relpoline_sites_0_1_0"
#define RELPOLINE_REGISTRAR_(percent)                                                                     \
    ".ifndef register_" RELPOLINE_SITES_ "\n"                                                     \
    ".weak __start_" RELPOLINE_SITES_ "\n.hidden __start_" RELPOLINE_SITES_ "\n"                  \
    ".weak __stop_" RELPOLINE_SITES_ "\n.hidden __stop_" RELPOLINE_SITES_ "\n"                    \
    ".pushsection .text.register_" RELPOLINE_SITES_ ",\"axG\",@progbits,register_" RELPOLINE_SITES_ ",comdat\n" \
    ".weak register_" RELPOLINE_SITES_ "\n.hidden register_" RELPOLINE_SITES_ "\n"                \
    ".type register_" RELPOLINE_SITES_ ",@function\n"                                             \
    "register_" RELPOLINE_SITES_ ":\n"                                                            \
    "endbr64\n"                                                                                   \
    "leaq __start_" RELPOLINE_SITES_ "(" percent "rip), " percent "rdi\n"                                             \
    "leaq __stop_" RELPOLINE_SITES_ "(" percent "rip), " percent "rsi\n"                                              \
    "jmp relpoline_register@PLT\n"                                                                \
    "unregister_" RELPOLINE_SITES_ ":\n"                                                          \
    "endbr64\n"                                                                                   \
    "leaq __start_" RELPOLINE_SITES_ "(" percent "rip), " percent "rdi\n"                                             \
    "jmp relpoline_unregister@PLT\n"                                                              \
    ".popsection\n"                                                                               \
    ".pushsection .init_array,\"awG\",@init_array,register_" RELPOLINE_SITES_ ",comdat\n"         \
    ".balign 8\n.quad register_" RELPOLINE_SITES_ "\n.popsection\n"                               \
    ".pushsection .fini_array,\"awG\",@fini_array,register_" RELPOLINE_SITES_ ",comdat\n"         \
    ".balign 8\n.quad unregister_" RELPOLINE_SITES_ "\n.popsection\n"                             \
    ".endif\n"
#define RELPOLINE_SITE_(owner, kind, percent)                     \
    ".pushsection " RELPOLINE_SITES_ ",\"awR\",@progbits\n" \
    ".balign 8\n.quad 2b\n.quad " owner " + " kind "\n"    \
    ".popsection\n" RELPOLINE_REGISTRAR_(percent)

/* A function each, since clang mixes up the labels of several asm gotos in one. */
#define RELPOLINE_BRANCH_(key, form, kind, ahead)                                              \
    __attribute__((always_inline, unused)) static inline bool relpoline_##form##_##key(void) { \
        __asm__ goto("2: jmp %l[slow]\n"                                                       \
                     RELPOLINE_SITE_("relpoline_key_" #key, #kind, "%%")                       \
                     : : : "cc" : slow);                                                       \
        return ahead;                                                                          \
    slow:                                                                                      \
        return relpoline_key_is_enabled(&key);                                                 \
    }

#define RELPOLINE_DECLARE_STATIC_CALL(name, ret, params, arguments)                              \
    typedef ret name##_type_ params;                                                             \
    RELPOLINE_C_ relpoline_call name##_state __asm__("relpoline_call_" #name) RELPOLINE_HIDDEN_; \
    RELPOLINE_C_ ret name params __asm__("relpoline_gate_" #name) __attribute__((visibility("hidden")))

/* Slot 0 jumps through the pointer, and so do eight more until they are filled. */
#define RELPOLINE_CALL_GATE_(name)                                              \
    __asm__(".pushsection .text.relpoline_gate_" #name ",\"ax\",@progbits\n"    \
            ".balign 64, 0xcc\n"                                                \
            ".globl relpoline_gate_" #name "\n.hidden relpoline_gate_" #name "\n" \
            ".type relpoline_gate_" #name ",@function\n"                        \
            "relpoline_gate_" #name ":\n"                                       \
            ".cfi_startproc\n"                                                  \
            "2:\n"                                                              \
            ".rept 9\n.byte 0xe9\n.long 3f - (. + 4)\n.endr\n"                  \
            "3: movq relpoline_call_" #name "(%rip), %r11\n"                    \
            "jmp *%r11\n"                                                       \
            "int3\n"                                                            \
            ".cfi_endproc\n"                                                    \
            ".size relpoline_gate_" #name ", . - relpoline_gate_" #name "\n"    \
            RELPOLINE_SITE_("relpoline_call_" #name, "2", "%")                       \
            ".popsection\n");                                                   \
    RELPOLINE_C_ relpoline_call name##_state

#define RELPOLINE_DECLARE_TABLE_GATE_(name, ret, params)                                     \
    RELPOLINE_C_ ret relpoline_gate_##name(RELPOLINE_LIST_ params, void *relpoline_target_)  \
        __asm__("relpoline_gate_" #name) __attribute__((visibility("hidden")));
#define RELPOLINE_CALL_TABLE_(name, arguments) \
    relpoline_gate_##name(RELPOLINE_LIST_ arguments, (void *)relpoline_target_)

#define RELPOLINE_JUMP_0_ "jmp *%rdi\n"
#define RELPOLINE_JUMP_1_ "jmp *%rsi\n"
#define RELPOLINE_JUMP_2_ "jmp *%rdx\n"
#define RELPOLINE_JUMP_3_ "jmp *%rcx\n"
#define RELPOLINE_JUMP_4_ "jmp *%r8\n"
#define RELPOLINE_JUMP_5_ "jmp *%r9\n"
#define RELPOLINE_TABLE_GATE_(name, integers)                                   \
    __asm__(".pushsection .text.relpoline_gate_" #name ",\"ax\",@progbits\n"    \
            ".balign 32, 0xcc\n"                                                \
            ".globl relpoline_gate_" #name "\n.hidden relpoline_gate_" #name "\n" \
            ".type relpoline_gate_" #name ",@function\n"                        \
            "relpoline_gate_" #name ":\n"                                       \
            ".cfi_startproc\n"                                                  \
            "2: .byte 0xa9\n.long 0\n"                                          \
            RELPOLINE_JUMP_##integers##_                                        \
            "int3\n"                                                            \
            /* Never executed: it keeps linkers from folding gates that are equal otherwise. */ \
            "lea relpoline_dynamic_" #name "(%rip), %r11\n"                     \
            ".cfi_endproc\n"                                                    \
            ".size relpoline_gate_" #name ", . - relpoline_gate_" #name "\n"    \
            RELPOLINE_SITE_("relpoline_dynamic_" #name, "3", "%")                    \
            ".popsection\n");                                                   \
    RELPOLINE_C_ relpoline_dynamic name##_state

#endif
