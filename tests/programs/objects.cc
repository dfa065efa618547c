// C++: virtual calls, exceptions and longjmp through promoted calls, std::function, destructors counted.
#include "check.h"
#include <csetjmp>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

static const word calls = 300000;

struct Shape {
    virtual ~Shape() {}
    virtual word area(word x) const = 0;
};
template <word N> struct Polygon : Shape {
    OPAQUE word area(word x) const override { return ANSWER(N, x); }
};

static OPAQUE void virtual_calls(const std::vector<std::unique_ptr<Shape>> &shapes, word step) {
    for (word i = 0; i < calls; i++) {
        word n = i * step % shapes.size(), got = shapes[n]->area(i);
        CHECK(got == ANSWER(n, i), "shape %lu said %lu", n, got);
    }
}

// Counts what is alive: unwinding must run each destructor once.
static long alive;
struct Guard {
    Guard() { alive++; }
    ~Guard() { alive--; }
};

struct Thrown {
    word value;
};

static OPAQUE word throws_sometimes(word x) {
    Guard guard;
    if (x % 7 == 3) throw Thrown{ x };
    if (x % 1000 == 999) throw std::runtime_error(std::to_string(x));
    return ANSWER(1, x);
}
static OPAQUE word never_throws(word x) {
    Guard guard;
    return ANSWER(2, x);
}

using function_t = word(word);
static function_t *volatile throwers[2] = { throws_sometimes, never_throws };

static OPAQUE word between(function_t *f, word x) {
    Guard guard;
    word got = f(x);
    return got + alive - alive;
}
static function_t *volatile unused_pointer;

static OPAQUE void exceptions() {
    word caught = 0, returned = 0, errors = 0;
    for (word i = 0; i < calls; i++) {
        word which = i / 5000 % 2;
        try {
            Guard guard;
            word got = between(throwers[which], i);
            CHECK(got == ANSWER(which + 1, i), "said %lu", got);
            returned++;
        } catch (const Thrown &thrown) {
            CHECK(thrown.value == i && i % 7 == 3, "%lu thrown at %lu", thrown.value, i);
            caught++;
        } catch (const std::exception &error) {
            CHECK(std::stoul(error.what()) == i, "%s thrown at %lu", error.what(), i);
            errors++;
        }
        CHECK(alive == 0, "%ld objects left at %lu", alive, i);
    }
    CHECK(caught + returned + errors == calls && caught > 1000 && errors > 100, "%lu %lu %lu", caught, returned, errors);
}

static std::jmp_buf back;
static OPAQUE word jumps(word x) {
    if (x % 3 == 1) std::longjmp(back, 1);
    return ANSWER(3, x);
}
static function_t *volatile jumper = jumps;

static OPAQUE void long_jumps() {
    volatile word i = 0, jumped = 0;
    if (setjmp(back)) {
        CHECK(i % 3 == 1, "jumped at %lu", i);
        jumped = jumped + 1;
        i = i + 1;
    }
    for (; i < calls; i = i + 1) {
        word got = jumper(i);
        CHECK(got == ANSWER(3, i) && i % 3 != 1, "said %lu", got);
    }
    CHECK(jumped == calls / 3, "%lu jumps", jumped);
}

static OPAQUE void functions() {
    word bias = 5;
    std::vector<std::function<word(word)>> list = {
        [&](word x) { return x + bias; },
        [=](word x) { return x * bias; },
        never_throws,
        std::bind([](word a, word b) { return a - b; }, std::placeholders::_1, 2),
    };
    for (word i = 0; i < calls; i++) {
        word want[] = { i + 5, i * 5, ANSWER(2, i), i - 2 }, n = i & 3, got = list[n](i);
        CHECK(got == want[n], "function %lu said %lu", n, got);
    }
}

struct Base {
    virtual word f(word x) { return x + 1; }
    virtual ~Base() {}
};
struct Derived : Base {
    word f(word x) override { return x + 2; }
};
static OPAQUE word by_member(Base &b, word (Base::*f)(word), word x) { return (b.*f)(x); }

static OPAQUE void member_pointers() {
    Base base;
    Derived derived;
    for (word i = 0; i < calls; i++) {
        Base &b = i & 1 ? derived : base;
        CHECK(by_member(b, &Base::f, i) == i + 1 + (i & 1), "member at %lu", i);
    }
}

int main() {
    std::vector<std::unique_ptr<Shape>> shapes;
    shapes.emplace_back(new Polygon<0>);
    virtual_calls(shapes, 1);
    shapes.emplace_back(new Polygon<1>);
    shapes.emplace_back(new Polygon<2>);
    virtual_calls(shapes, 1);
    shapes.emplace_back(new Polygon<3>);
    shapes.emplace_back(new Polygon<4>);
    virtual_calls(shapes, 3);
    exceptions();
    long_jumps();
    functions();
    member_pointers();
    std::puts("objects done");
}
