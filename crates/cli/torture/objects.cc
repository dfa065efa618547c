/* What C++ adds: virtual calls, pointers to members, std::function, and exceptions that are thrown through sites. */
#include "torture.h"
#include <functional>
#include <stdexcept>

namespace {

struct Shape {
    virtual ~Shape() = default;
    virtual word number() const = 0;
    virtual word area(word x) = 0;
    virtual void fail(word x) = 0;
};

struct Failure {
    word number, x;
};

template <int N> struct Kind : Shape {
    word number() const override { return N; }
    OPAQUE word area(word x) override {
        entered++;
        return ANSWER(N, x);
    }
    OPAQUE void fail(word x) override {
        if (x % 3 == 0) throw Failure{ N, x };
        if (x % 3 == 1) throw std::runtime_error(std::to_string(ANSWER(N, x)));
    }
};

Kind<0> zero;
Kind<1> one;
Kind<2> two;
Kind<3> three;
Kind<4> four;
Kind<5> five;
Shape *volatile shapes[] = { &zero, &one, &two, &three, &four, &five };
constexpr word SHAPES = sizeof shapes / sizeof *shapes;

/* Its destructor runs while the stack is unwound: it has to find every frame. */
struct Guard {
    word &depth;
    explicit Guard(word &d) : depth(d) { ++depth; }
    ~Guard() { --depth; }
};

OPAQUE void call_and_guard(Shape *shape, word x, word &depth, int further) {
    Guard guard(depth);
    if (further) return call_and_guard(shape, x, depth, further - 1);
    shape->fail(x);
}

} // namespace

word call_objects(const unsigned char *pattern, word base, word calls) {
    std::function<word(word)> functions[] = { [](word x) { return x + 1; }, [base](word x) { return x + base; } };
    word (Shape::*volatile member)(word) = &Shape::area;
    for (word i = 0; i < calls; i++) {
        word n = (pattern[i % PATTERN] + base) % SHAPES, before = entered;
        Shape *shape = shapes[n];
        word direct = shape->area(i), by_member = (shape->*member)(i), function = functions[i & 1](i);
        if (UNLIKELY(direct != ANSWER(n, i) || by_member != direct || entered != before + 2 || shape->number() != n))
            wrong("object %lu answered %lu and %lu, called with %lu", n, direct - i * 31, by_member - i * 31, i);
        if (UNLIKELY(function != i + (i & 1 ? base : 1))) wrong("std::function gave %lu for %lu", function, i);
    }
    return calls * 4;
}

void throw_through_sites(word seed) {
    word thrown = 0;
    for (word i = 0; i < 300; i++) {
        word x = seed + i, n = x / 7 % SHAPES, depth = 0;
        int caught = 2;
        try {
            call_and_guard(shapes[n], x, depth, static_cast<int>(i % 4));
        } catch (const Failure &failure) {
            caught = 0;
            if (failure.number != n || failure.x != x) wrong("object %lu threw for object %lu", failure.number, n);
        } catch (const std::runtime_error &error) {
            caught = 1;
            if (error.what() != std::to_string(ANSWER(n, x))) wrong("object %lu threw %s for %lu", n, error.what(), x);
        }
        if (caught != static_cast<int>(x % 3) || depth) wrong("object %lu: caught %d, depth %lu", n, caught, depth);
        thrown += caught != 2;
    }
    count(EVENT_THROW, thrown);
    count(VIRTUAL, 300);
}
