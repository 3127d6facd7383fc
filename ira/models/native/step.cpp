// Tokens and a pointer of each row in, logits of the next codes out: one step of a SpeechLM's decoder on a CPU.
//
// What SpeechLM.step computes, in fp32, with weights that are read once for all rows and in the order in which they lie.
// Threads share out heads and outputs, and each output is summed up by one of them in an order of its own: neither the
// number of threads nor a row's neighbours change a result. `build.py` has it compiled, `step.py` lays out the structures
// below. Inputs of a matrix are padded with zeros to a multiple of GROUP.

#include <atomic>
#include <vector>

#include <sched.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernels.h"

extern "C" {

struct Layer {
    Matrix qkv, o, cross_q, cross_o, both, down;
    const float *norm, *cross_norm, *feed_norm;
};

struct Model {
    int32_t layers, width, heads, hidden, books, codes, tokens, longest_stay;
    float eps, pointer_width, advance_bias;
    const Layer* layer;
    Matrix out;                         // [books * codes]
    const float *norm, *advance, *stay;  // advance [width]; stay [longest_stay + 1][width]
    const float* embed;                 // [books][tokens][width]
    const float *cos, *sin;             // [steps][width / heads]
};

// What one decoding has: caches bf16 [rows][heads][places][width / heads] and [rows][heads][memory][width / heads].
struct State {
    int32_t rows, places, memory;  // memory: 1 + text tokens
    uint16_t *const *keys, *const *values, *const *cross_keys, *const *cross_values;  // one for each layer
    const float *told, *voice;  // [rows][memory - 1][width], [rows][width]
    const uint8_t* mask;        // [rows][memory]
};
}

namespace {

constexpr int SPINS = 2000;    // turns of waiting for other threads before the core is offered to someone else
constexpr float FAR = -30.0f;  // see speech_lm.py

// All threads wait for the last. Not OpenMP's own: that one sleeps at once or spins for long, as the environment says.
struct Barrier {
    std::atomic<int> waiting{0}, turn{0};

    void wait(int threads) {
        if (threads == 1) return;
        int now = turn.load();
        if (waiting.fetch_add(1) == threads - 1) {
            waiting.store(0);
            turn.store(now + 1);
            return;
        }
        for (int spins = 0; turn.load(std::memory_order_acquire) == now; spins++) {
#if defined(__x86_64__)
            if (spins < SPINS) __builtin_ia32_pause();
#endif
            if (spins >= SPINS) sched_yield();
        }
    }
};

int padded(int size) { return (size + GROUP - 1) / GROUP * GROUP; }

struct Step {
    const Model& model;
    const State& state;
    int at, threads;
    const int64_t *tokens, *place, *stay;
    float *logits, *advance;
    int rows, width, size, wide, deep;        // size: of a head; wide, deep: width and hidden, padded
    std::vector<float> x, mixed, opened;      // [rows][width], [rows][wide], [rows][deep]
    Barrier barrier;

    Step(const Model& m, const State& s, int at, int threads)
        : model(m), state(s), at(at), threads(threads), rows(s.rows), width(m.width), size(m.width / m.heads),
          wide(padded(m.width)), deep(padded(m.hidden)), x((size_t)rows * width), mixed((size_t)rows * wide),
          opened((size_t)rows * deep) {}

    // A thread's part of `all`, in units that stay together.
    int bound(int all, int id, int unit) const {
        int units = (all + unit - 1) / unit;
        return std::min(all, (int)((int64_t)units * id / threads) * unit);
    }

    // What a thread has to itself.
    struct Own {
        int id;
        std::vector<float> normed, heads, scores;  // [rows][wide], [rows][3 size], [places or memory]
    };

    void enter(int id) {
        for (int r = 0; r < rows; r++) {
            const float* told = state.told + ((int64_t)r * (state.memory - 1) + place[r]) * width;
            const float* spent = model.stay + stay[r] * width;
            for (int i = bound(width, id, LANES), end = bound(width, id + 1, LANES); i < end; i++) {
                float total = spent[i] + told[i] + state.voice[(int64_t)r * width + i];
                for (int k = 0; k < model.books; k++)
                    total += model.embed[((int64_t)k * model.tokens + tokens[r * model.books + k]) * width + i];
                x[(size_t)r * width + i] = total;
            }
        }
    }

    void look(const float* q, const uint16_t* keys, const uint16_t* values, int count, float* scores, float* into) {
        auto attended = size == 64 ? attend<64> : size == 32 ? attend<32> : attend<0>;
        attended(q, keys, values, count, size, scores, into);
    }

    void look_back(const Layer& layer, int index, Own& own) {
        normalise(x.data(), layer.norm, model.eps, rows, width, wide, own.normed.data());
        int64_t places = state.places;
        int here = at % state.places, seen = std::min(at + 1, state.places);
        for (int h = bound(model.heads, own.id, 1), end = bound(model.heads, own.id + 1, 1); h < end; h++) {
            for (int part = 0; part < 3; part++) {
                int begin = part * width + h * size;
                multiply(layer.qkv, begin, begin + size, own.normed.data(), rows, [&](int r, int o, float v) {
                    own.heads[((size_t)r * 3 + part) * size + o - begin] = v;
                });
            }
            for (int r = 0; r < rows; r++) {
                float *q = own.heads.data() + (size_t)r * 3 * size, *k = q + size, *v = k + size;
                const float *cos = model.cos + (int64_t)at * size, *sin = model.sin + (int64_t)at * size;
                turn(q, cos, sin, size);
                turn(k, cos, sin, size);
                uint16_t* keys = state.keys[index] + ((int64_t)r * model.heads + h) * places * size;
                uint16_t* values = state.values[index] + ((int64_t)r * model.heads + h) * places * size;
                for (int i = 0; i < size; i++) keys[(int64_t)here * size + i] = to_bf16(k[i]);
                for (int i = 0; i < size; i++) values[(int64_t)here * size + i] = to_bf16(v[i]);
                std::fill(own.scores.begin(), own.scores.begin() + seen, 0.0f);
                look(q, keys, values, seen, own.scores.data(), mixed.data() + (size_t)r * wide + h * size);
            }
        }
    }

    void look_at_memory(const Layer& layer, int index, Own& own) {
        normalise(x.data(), layer.cross_norm, model.eps, rows, width, wide, own.normed.data());
        int count = state.memory;
        for (int h = bound(model.heads, own.id, 1), end = bound(model.heads, own.id + 1, 1); h < end; h++) {
            int begin = h * size;
            multiply(layer.cross_q, begin, begin + size, own.normed.data(), rows,
                           [&](int r, int o, float v) { own.heads[(size_t)r * size + o - begin] = v; });
            for (int r = 0; r < rows; r++) {
                int64_t first = ((int64_t)r * model.heads + h) * count * size;
                prior(r, own.scores.data());
                look(own.heads.data() + (size_t)r * size, state.cross_keys[index] + first,
                     state.cross_values[index] + first, count, own.scores.data(),
                     mixed.data() + (size_t)r * wide + begin);
            }
        }
    }

    // A Gaussian around the pointer, nothing for the voice, see SpeechLM._bias.
    void prior(int r, float* scores) const {
        scores[0] = 0;
        for (int j = 1; j < state.memory; j++) {
            float away = (float)(j - 1 - place[r]) / model.pointer_width;
            scores[j] = std::max(-0.5f * away * away, FAR);
        }
        for (int j = 0; j < state.memory; j++)
            if (!state.mask[(int64_t)r * state.memory + j]) scores[j] = -INFINITY;
    }

    void add(const Matrix& matrix, const std::vector<float>& from, int id) {
        multiply(matrix, bound(width, id, TOGETHER), bound(width, id + 1, TOGETHER), from.data(), rows,
                       [&](int r, int o, float v) { x[(size_t)r * width + o] += v; });
    }

    void open(const Layer& layer, Own& own) {
        normalise(x.data(), layer.feed_norm, model.eps, rows, width, wide, own.normed.data());
        int begin = bound(model.hidden, own.id, TOGETHER), end = bound(model.hidden, own.id + 1, TOGETHER);
        multiply(layer.both, begin, end, own.normed.data(), rows, [&](int r, int o, float v) {
            opened[(size_t)r * deep + o] = v / (1.0f + exponential(-v));
        });
        multiply(layer.both, model.hidden + begin, model.hidden + end, own.normed.data(), rows,
                       [&](int r, int o, float v) { opened[(size_t)r * deep + o - model.hidden] *= v; });
    }

    void leave(Own& own) {
        normalise(x.data(), model.norm, model.eps, rows, width, wide, own.normed.data());
        int all = model.books * model.codes;
        multiply(model.out, bound(all, own.id, TOGETHER), bound(all, own.id + 1, TOGETHER), own.normed.data(),
                       rows, [&](int r, int o, float v) { logits[(int64_t)r * all + o] = v; });
        for (int r = 0; r < rows && own.id == 0; r++) {
            advance[r] = model.advance_bias;
            for (int i = 0; i < width; i++) advance[r] += own.normed[(size_t)r * wide + i] * model.advance[i];
        }
    }

    void run(int id) {
        Own own{id, std::vector<float>((size_t)rows * wide), std::vector<float>((size_t)rows * 3 * size),
                std::vector<float>(std::max(state.places, state.memory))};
        enter(id);
        barrier.wait(threads);
        for (int index = 0; index < model.layers; index++) {
            const Layer& layer = model.layer[index];
            look_back(layer, index, own);
            barrier.wait(threads);
            add(layer.o, mixed, id);
            barrier.wait(threads);
            look_at_memory(layer, index, own);
            barrier.wait(threads);
            add(layer.cross_o, mixed, id);
            barrier.wait(threads);
            open(layer, own);
            barrier.wait(threads);
            add(layer.down, opened, id);
            barrier.wait(threads);
        }
        leave(own);
    }

};

}  // namespace

// tokens [rows][books], place and stay [rows] -> logits [rows][books * codes], advance [rows]; `at` steps lie behind.
// Returns how many threads there were: `threads`, or as many as the system had.
extern "C" int32_t ira_step(const Model* model, const State* state, int32_t at, int32_t threads, const int64_t* tokens,
                         const int64_t* place, const int64_t* stay, float* logits, float* advance) {
#ifdef _OPENMP
    // Fewer come where the system has no more: then they would wait for ever for those that do not.
    threads = std::min(threads, omp_get_thread_limit());
#else
    threads = 1;
#endif
    Step step(*model, *state, at, threads);
    step.tokens = tokens, step.place = place, step.stay = stay, step.logits = logits, step.advance = advance;
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
#pragma omp single
        step.threads = omp_get_num_threads();
        step.run(omp_get_thread_num());
#else
        step.run(0);
#endif
    }
    return step.threads;
}
