/* Learns y = sin(3 a) b from examples that it makes up, saves what it has learned, and reads it again.  See model.py. */
#include <stdio.h>
#include "curve.h"

enum { BATCH = 32, STEPS = 3000 };

/* Memory whose addresses are multiples of CURVE_ALIGNMENT: with C11 or POSIX also from aligned_alloc. */
static unsigned char memory[CURVE_STATE_BYTES + CURVE_SCRATCH_BYTES + CURVE_ALIGNMENT];
static uint32_t seed = 1;

static float uniform(void) { /* in -1 ... 1 */
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

static float sine(float t) { /* |t| <= 3; no math library is linked */
    float s = t * t;
    return t * (1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110 * (1 - s / 156))))));
}

static void draw(float *x, float *y) {
    for (int i = 0; i < BATCH; i++) {
        x[2 * i] = uniform();
        x[2 * i + 1] = uniform();
        y[i] = sine(3 * x[2 * i]) * x[2 * i + 1];
    }
}

int main(void) {
    unsigned char *state = memory, *scratch;
    float x[2 * BATCH], y[BATCH], predicted[BATCH], loss, worst = 0;
    while ((uintptr_t)state % CURVE_ALIGNMENT) state++;
    scratch = state + CURVE_STATE_BYTES;

    curve_init(state);
    for (int step = 1; step <= STEPS; step++) {
        draw(x, y);
        curve_train(state, scratch, x, y, &loss);
        if (step % 500 == 0) printf("step %4d  loss %.6f\n", step, (double)loss);
    }

    FILE *file = fopen("curve.state", "wb");
    if (!file || fwrite(state, CURVE_STATE_BYTES, 1, file) != 1 || fclose(file)) return 1;
    curve_init(state); /* forgets */
    file = fopen("curve.state", "rb");
    if (!file || fread(state, CURVE_STATE_BYTES, 1, file) != 1 || fclose(file)) return 1;

    draw(x, y);
    curve_predict(state, scratch, x, predicted);
    for (int i = 0; i < BATCH; i++) {
        float error = predicted[i] > y[i] ? predicted[i] - y[i] : y[i] - predicted[i];
        if (error > worst) worst = error;
    }
    printf("worst of %d predictions: %.3f; the first weight is %.4f\n", BATCH, (double)worst,
           (double)*(float *)(state + CURVE_AT_0_WEIGHT));
    return 0;
}
