/* BLAKE2b (RFC 7693), as much of it as is needed here: 32 bytes of digest, a purpose of 16 or a key. */
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t h[8], count;
    uint8_t block[128];
    size_t filled;
} blake2b;

static const uint64_t blake2b_iv[8] = {
    0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
    0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u,
};

static const uint8_t blake2b_sigma[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint64_t blake2b_load(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static uint64_t blake2b_turn(uint64_t word, int bits)
{
    return word >> bits | word << (64 - bits);
}

static inline void blake2b_mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = blake2b_turn(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = blake2b_turn(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = blake2b_turn(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = blake2b_turn(v[b] ^ v[c], 63);
}

static void blake2b_compress(blake2b *state, int is_last)
{
    uint64_t v[16], m[16];
    for (int i = 0; i < 16; i++)
        m[i] = blake2b_load(state->block + 8 * i);
    memcpy(v, state->h, 64);
    memcpy(v + 8, blake2b_iv, 64);
    v[12] ^= state->count;
    if (is_last)
        v[14] = ~v[14];
#pragma GCC unroll 12 /* so that sigma is no table any more */
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = blake2b_sigma[round % 10];
        blake2b_mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
        blake2b_mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
        blake2b_mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
        blake2b_mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
        blake2b_mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
        blake2b_mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
        blake2b_mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
        blake2b_mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        state->h[i] ^= v[i] ^ v[i + 8];
}

static void blake2b_begin(blake2b *state, const char *purpose)
{
    memset(state, 0, sizeof *state);
    memcpy(state->h, blake2b_iv, 64);
    state->h[0] ^= 0x01010020; /* depth 1, fan-out 1, 32 bytes of digest */
    state->h[6] ^= blake2b_load((const uint8_t *)purpose);
    state->h[7] ^= blake2b_load((const uint8_t *)purpose + 8);
}

static void blake2b_add(blake2b *state, const uint8_t *data, size_t size)
{
    while (size) {
        if (state->filled == sizeof state->block) { /* only now: the last block is another matter */
            state->count += state->filled;
            blake2b_compress(state, 0);
            state->filled = 0;
        }
        size_t part = sizeof state->block - state->filled;
        part = size < part ? size : part;
        memcpy(state->block + state->filled, data, part);
        state->filled += part;
        data += part;
        size -= part;
    }
}

/* At most 64 bytes of key. */
static inline void blake2b_begin_keyed(blake2b *state, const uint8_t *key, size_t size)
{
    blake2b_begin(state, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    if (size) {
        state->h[0] ^= size << 8;
        memcpy(state->block, key, size);
        state->filled = sizeof state->block;
    }
}

static void blake2b_end(blake2b *state, uint8_t *digest)
{
    memset(state->block + state->filled, 0, sizeof state->block - state->filled);
    state->count += state->filled;
    blake2b_compress(state, 1);
    for (int i = 0; i < 32; i++)
        digest[i] = state->h[i / 8] >> 8 * (i % 8);
}
