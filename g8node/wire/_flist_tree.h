/*
 * From the records of an flist to its tree, in arrays. Whatever is not exactly as our packer writes it makes
 * `read_tree` return OTHER: then flist/records.py decides, and names what is wrong. So everything that is
 * accepted here must be accepted there, with the same meaning; wire/capnp.py and wire/flist.py are the rules.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { OK, OTHER, NO_MEMORY };

#define WORD 8
#define MESSAGE_MAX ((size_t)256 << 20)
#define NAME_MAX_BYTES 255
#define CHUNK_BYTES (512u << 10)
#define PLAIN_MAX (16u << 20)
#define BLOCK_UNIT 4096u
#define DIGEST 32
#define NANOSECONDS 1000000000u
#define NONE UINT32_MAX

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int tried = (call);                                                                                            \
        if (tried != OK)                                                                                               \
            return tried;                                                                                              \
    } while (0)
#define NEED(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return OTHER;                                                                                              \
    } while (0)

typedef struct {
    const uint8_t *at;
    size_t size;
} span;

typedef struct {
    span name, value;
} xattr;

typedef struct {
    const uint8_t *id, *key;
    uint32_t size, block; /* `block`: the first in the data area, once it is placed */
} chunk;

typedef struct {
    span name;
    uint32_t node;
} child;

typedef struct {
    uint32_t mode, uid, gid, mtime_ns;
    int64_t mtime_s;
    uint64_t size, position, tail;
    span target, acl;
    uint32_t device[2];
    uint32_t xattrs, xattr_count, chunks, chunk_count, children, child_count;
    uint32_t nlink, extent, link; /* `link`: number of the group of names of this inode, 0: it has one */
    uint8_t codec, layout, is_whole, is_placed;
    uint8_t digest[DIGEST];
} node;

typedef struct {
    span key, value;
    uint32_t mode, uid, gid;
    uint8_t is_acl, is_reached;
} record;

/* Numbers by what they stand for; the hash is seeded, since strangers choose the ids. */
typedef struct {
    uint32_t *slots;
    size_t mask, used;
} table;

typedef struct {
    uint32_t node, depth;
    record *from;
} pending;

#define ARRAY(type) struct { type *items; size_t count, room; }

typedef struct {
    uint64_t entries, chunks;
    uint32_t depth;
} limits;

typedef struct {
    limits limits;
    uint64_t seed[2];
    ARRAY(record) records;
    ARRAY(node) nodes;
    ARRAY(child) children;
    ARRAY(xattr) xattrs;
    ARRAY(chunk) chunks;
    ARRAY(pending) todo;
    ARRAY(uint32_t) groups; /* pairs: number in the flist, node */
    table by_key, by_group;
    uint64_t entries;
} tree;

static int grow(void *array, size_t item, size_t more)
{
    ARRAY(uint8_t) *any = array;
    if (any->count + more <= any->room)
        return OK;
    size_t room = any->room * 2 > any->count + more ? any->room * 2 : any->count + more + 64;
    uint8_t *items = room > SIZE_MAX / item ? NULL : realloc(any->items, room * item);
    if (!items)
        return NO_MEMORY;
    any->items = items;
    any->room = room;
    return OK;
}
#define GROW(array, more) TRY(grow(&(array), sizeof *(array).items, more))

static uint64_t little(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    while (bytes--)
        value = value << 8 | at[bytes];
    return value;
}

static int same(span a, span b)
{
    return a.size == b.size && (!a.size || !memcmp(a.at, b.at, a.size));
}

static int order(span a, span b)
{
    size_t least = a.size < b.size ? a.size : b.size;
    int sign = least ? memcmp(a.at, b.at, least) : 0;
    return sign ? sign : (a.size > b.size) - (a.size < b.size);
}

static uint64_t hash(const uint64_t *seed, const uint8_t *at, size_t size)
{
    uint64_t value = seed[0] ^ size;
    while (size) {
        size_t part = size < 8 ? size : 8;
        __uint128_t product = (__uint128_t)(value ^ little(at, (int)part)) * (seed[1] | 1);
        value = (uint64_t)product ^ (uint64_t)(product >> 64) ^ seed[0];
        at += part;
        size -= part;
    }
    return value ^ value >> 29;
}

static int table_room(table *one, size_t wanted)
{
    size_t room = 64;
    while (room < 2 * wanted + 2)
        room *= 2;
    one->slots = malloc(room * sizeof *one->slots);
    if (!one->slots)
        return NO_MEMORY;
    memset(one->slots, 0xff, room * sizeof *one->slots);
    one->mask = room - 1;
    return OK;
}

/* --- Cap'n Proto: messages of one segment, as Builder makes them */

typedef struct {
    const uint8_t *at;
    size_t size;
    int64_t budget; /* words that may be read, as in wire/capnp.py */
} message;

typedef struct {
    const uint8_t *at;
    uint32_t data, pointers; /* bytes of data, number of pointers */
} part;

typedef struct {
    uint32_t count;
    part first;
} list;

static int spend(message *from, uint64_t words)
{
    from->budget -= (int64_t)words;
    return from->budget < 0 ? OTHER : OK;
}

/* The halves of the pointer's word and where it leads; `*high` and the return value as in capnp.Message.follow. */
static int follow(const message *from, const uint8_t *pointer, uint32_t *low, uint32_t *high, int64_t *start)
{
    *low = (uint32_t)little(pointer, 4);
    *high = (uint32_t)little(pointer + 4, 4);
    NEED((*low & 3) < 2);
    *start = (pointer - from->at) + WORD + (int64_t)((int32_t)*low >> 2) * WORD;
    NEED(*start >= 0 || (*low == 0 && *high == 0));
    return OK;
}

static int struct_at(message *from, const uint8_t *pointer, part *found)
{
    uint32_t low, high;
    int64_t start;
    memset(found, 0, sizeof *found);
    TRY(follow(from, pointer, &low, &high, &start));
    if (low == 0 && high == 0)
        return OK;
    uint32_t data = (high & 0xffff) * WORD, pointers = high >> 16;
    uint64_t size = (uint64_t)data + (uint64_t)pointers * WORD;
    NEED((low & 3) == 0 && (uint64_t)start + size <= from->size);
    *found = (part){from->at + start, data, pointers};
    return spend(from, size / WORD);
}

static int root_of(span data, message *from, part *found)
{
    NEED(data.size >= 2 * WORD && data.size <= MESSAGE_MAX && little(data.at, 4) == 0);
    *from = (message){data.at + WORD, little(data.at + 4, 4) * WORD, (int64_t)(data.size / WORD)};
    NEED(from->size >= WORD && from->size <= data.size - WORD);
    return struct_at(from, from->at, found);
}

static const uint8_t *pointer_of(part of, uint32_t index)
{
    return index < of.pointers ? of.at + of.data + (size_t)index * WORD : NULL;
}

static int struct_in(message *from, part of, uint32_t index, part *found)
{
    const uint8_t *pointer = pointer_of(of, index);
    memset(found, 0, sizeof *found);
    return pointer ? struct_at(from, pointer, found) : OK;
}

static int data_in(message *from, part of, uint32_t index, span *found)
{
    const uint8_t *pointer = pointer_of(of, index);
    uint32_t low, high;
    int64_t start;
    *found = (span){NULL, 0};
    if (!pointer)
        return OK;
    TRY(follow(from, pointer, &low, &high, &start));
    if (low == 0 && high == 0)
        return OK;
    uint64_t count = high >> 3;
    NEED((low & 3) == 1 && (high & 7) == 2 && (uint64_t)start + count <= from->size);
    *found = (span){from->at + start, count};
    return spend(from, (count + WORD - 1) / WORD);
}

static int text_in(message *from, part of, uint32_t index, span *found)
{
    TRY(data_in(from, of, index, found));
    if (found->size) {
        NEED(found->at[found->size - 1] == 0);
        found->size--;
    }
    return OK;
}

static int ascii_in(message *from, part of, uint32_t index, span *found)
{
    TRY(text_in(from, of, index, found));
    for (size_t i = 0; i < found->size; i++)
        NEED(found->at[i] < 0x80);
    return OK;
}

/* Elements with fewer than `least` pointers are not ours: a small message must not stand for many of them. */
static int list_in(message *from, part of, uint32_t index, uint32_t least, list *found)
{
    const uint8_t *pointer = pointer_of(of, index);
    uint32_t low, high;
    int64_t start;
    memset(found, 0, sizeof *found);
    if (!pointer)
        return OK;
    TRY(follow(from, pointer, &low, &high, &start));
    if (low == 0 && high == 0)
        return OK;
    uint64_t words = high >> 3;
    NEED((low & 3) == 1 && (high & 7) == 7 && (uint64_t)start + (words + 1) * WORD <= from->size);
    uint32_t tag = (uint32_t)little(from->at + start, 4), shape = (uint32_t)little(from->at + start + 4, 4);
    uint32_t count = tag >> 2, data = (shape & 0xffff) * WORD, pointers = shape >> 16;
    uint64_t step = (uint64_t)data + (uint64_t)pointers * WORD;
    NEED((tag & 3) == 0 && count * step <= words * WORD);
    TRY(spend(from, count > words + 1 ? count : words + 1));
    NEED(!count || pointers >= least);
    *found = (list){count, {from->at + start + WORD, data, pointers}};
    return OK;
}

static part item(list of, uint32_t index)
{
    part one = of.first;
    one.at += (size_t)index * (one.data + (size_t)one.pointers * WORD);
    return one;
}

static uint64_t number(part of, uint32_t offset, uint32_t bytes)
{
    return offset + bytes <= of.data ? little(of.at + offset, (int)bytes) : 0;
}

/* --- records */

static record *find_record(tree *all, span key)
{
    if (!all->by_key.slots)
        return NULL;
    for (size_t at = hash(all->seed, key.at, key.size);; at++) {
        uint32_t index = all->by_key.slots[at & all->by_key.mask];
        if (index == NONE)
            return NULL;
        if (same(all->records.items[index].key, key))
            return &all->records.items[index];
    }
}

/* The caller's records hold distinct keys. */
static int index_records(tree *all)
{
    NEED(all->records.count < NONE);
    TRY(table_room(&all->by_key, all->records.count));
    for (size_t i = 0; i < all->records.count; i++) {
        span key = all->records.items[i].key;
        size_t at = hash(all->seed, key.at, key.size);
        while (all->by_key.slots[at & all->by_key.mask] != NONE)
            at++;
        all->by_key.slots[at & all->by_key.mask] = (uint32_t)i;
    }
    return OK;
}

static int owner(part root, uint32_t offset, uint32_t *id)
{
    uint64_t value = ~number(root, offset, 8);
    NEED(value <= UINT32_MAX); /* -1: by its name */
    *id = (uint32_t)value;
    return OK;
}

/* Sets mode and owner of a node whose type is set already. */
static int apply_acl(tree *all, node *one)
{
    record *from = find_record(all, one->acl);
    NEED(from);
    if (!from->is_acl) {
        message data;
        part root;
        span name;
        TRY(root_of(from->value, &data, &root));
        TRY(text_in(&data, root, 0, &name));
        TRY(text_in(&data, root, 1, &name));
        TRY(owner(root, 8, &from->uid));
        TRY(owner(root, 16, &from->gid));
        from->mode = number(root, 0, 2) & 07777;
        from->is_acl = 1;
    }
    one->mode |= from->mode;
    one->uid = from->uid;
    one->gid = from->gid;
    return OK;
}

static int by_name(const void *a, const void *b)
{
    return order(((const child *)a)->name, ((const child *)b)->name);
}

static int by_xattr(const void *a, const void *b)
{
    return order(((const xattr *)a)->name, ((const xattr *)b)->name);
}

static int read_xattrs(tree *all, message *from, part extra, node *one)
{
    list found;
    TRY(list_in(from, extra, 2, 2, &found));
    one->xattrs = (uint32_t)all->xattrs.count;
    one->xattr_count = found.count;
    NEED(all->xattrs.count + found.count < NONE);
    GROW(all->xattrs, found.count);
    xattr *items = all->xattrs.items + all->xattrs.count;
    for (uint32_t i = 0; i < found.count; i++) {
        TRY(data_in(from, item(found, i), 0, &items[i].name));
        TRY(data_in(from, item(found, i), 1, &items[i].value));
    }
    all->xattrs.count += found.count;
    if (found.count)
        qsort(items, found.count, sizeof *items, by_xattr);
    for (uint32_t i = 1; i < found.count; i++)
        NEED(!same(items[i - 1].name, items[i].name));
    return OK;
}

typedef struct {
    span name, target;
    uint32_t group;
} more;

/* What `Extra` says; without it the time that the original's fields say. */
static int read_extra(tree *all, message *from, part extra, uint32_t seconds, node *one, more *rest)
{
    memset(rest, 0, sizeof *rest);
    one->mtime_s = seconds;
    if (!extra.data && !extra.pointers)
        return OK;
    one->mtime_s = (int64_t)number(extra, 0, 8);
    one->mtime_ns = (uint32_t)number(extra, 8, 4);
    rest->group = (uint32_t)number(extra, 12, 4);
    NEED(one->mtime_ns < NANOSECONDS);
    TRY(data_in(from, extra, 0, &rest->name));
    TRY(data_in(from, extra, 1, &rest->target));
    return read_xattrs(all, from, extra, one);
}

static int read_chunks(tree *all, message *from, part body, node *one)
{
    list found;
    TRY(list_in(from, body, 0, 2, &found));
    uint32_t codec = (uint32_t)number(body, 2, 2), unit = (uint32_t)number(body, 0, 2);
    if (!found.count && !one->size)
        return OK; /* nothing else is said of an empty file */
    NEED(found.count && one->size && 1 <= codec && codec <= 3);
    NEED(unit == 0 || unit * BLOCK_UNIT == CHUNK_BYTES);
    NEED(all->chunks.count + found.count <= all->limits.chunks && all->chunks.count + found.count < NONE);
    one->codec = (uint8_t)codec;
    one->is_whole = unit == 0;
    one->chunks = (uint32_t)all->chunks.count;
    one->chunk_count = found.count;
    GROW(all->chunks, found.count);
    static const uint8_t hole[DIGEST];
    uint64_t left = one->size;
    for (uint32_t i = 0; i < found.count; i++) {
        span id, key;
        uint32_t size = (uint32_t)number(item(found, i), 0, 4);
        TRY(data_in(from, item(found, i), 0, &id));
        TRY(data_in(from, item(found, i), 1, &key));
        if (!id.size && !key.size)
            id = key = (span){hole, DIGEST};
        NEED(id.size == DIGEST && key.size == DIGEST && 1 <= size && size <= left);
        NEED(unit ? size == CHUNK_BYTES || (i == found.count - 1 && size < CHUNK_BYTES) : size <= PLAIN_MAX);
        uint8_t absent = 0xff;
        for (int byte = 0; byte < DIGEST; byte++)
            absent &= id.at[byte];
        NEED(absent != 0xff);
        left -= size;
        all->chunks.items[all->chunks.count++] = (chunk){id.at, key.at, size, 0};
    }
    NEED(left == 0);
    return OK;
}

/* `major,minor`, each of 1 to 10 digits. */
static int read_device(span text, uint32_t *device)
{
    size_t at = 0;
    for (int half = 0; half < 2; half++) {
        uint64_t value = 0;
        size_t first = at;
        for (; at < text.size && text.at[at] >= '0' && text.at[at] <= '9' && at - first < 10; at++)
            value = value * 10 + (text.at[at] - '0');
        NEED(at > first && value <= UINT32_MAX);
        device[half] = (uint32_t)value;
        if (!half)
            NEED(at < text.size && text.at[at++] == ',');
    }
    NEED(at == text.size);
    return OK;
}

static int read_special(message *from, part body, node *one)
{
    static const uint32_t types[] = {S_IFSOCK, S_IFBLK, S_IFCHR, S_IFIFO};
    span text;
    uint64_t kind = number(body, 0, 2);
    TRY(data_in(from, body, 0, &text));
    /* A socket with numbers is a device of the original's. */
    NEED(kind <= 3 && (kind || !text.size || text.at[0] < '0' || text.at[0] > '9'));
    one->mode = types[kind];
    if (kind == 0 || kind == 3)
        return OK;
    TRY(read_device(text, one->device));
    NEED(one->device[0] < 1u << 12 && one->device[1] < 1u << 20);
    return OK;
}

static int is_name(span name)
{
    if (!name.size || name.size > NAME_MAX_BYTES || memchr(name.at, '/', name.size) || memchr(name.at, 0, name.size))
        return 0;
    return name.at[0] != '.' || name.size > 2 || (name.size == 2 && name.at[1] != '.');
}

static int same_chunks(const tree *all, const node *a, const node *b)
{
    if (a->chunk_count != b->chunk_count || a->codec != b->codec || a->is_whole != b->is_whole)
        return 0;
    for (uint32_t i = 0; i < a->chunk_count; i++) {
        const chunk *x = &all->chunks.items[a->chunks + i], *y = &all->chunks.items[b->chunks + i];
        if (x->size != y->size || memcmp(x->id, y->id, DIGEST) || memcmp(x->key, y->key, DIGEST))
            return 0;
    }
    return 1;
}

static int same_inode(const tree *all, const node *a, const node *b)
{
    if (a->mode != b->mode || !same(a->acl, b->acl) || a->mtime_s != b->mtime_s || a->mtime_ns != b->mtime_ns)
        return 0;
    if (a->size != b->size || a->xattr_count != b->xattr_count || !same(a->target, b->target))
        return 0;
    for (uint32_t i = 0; i < a->xattr_count; i++) {
        const xattr *x = &all->xattrs.items[a->xattrs + i], *y = &all->xattrs.items[b->xattrs + i];
        if (!same(x->name, y->name) || !same(x->value, y->value))
            return 0;
    }
    return a->device[0] == b->device[0] && a->device[1] == b->device[1] && same_chunks(all, a, b);
}

/* Where the node of this group's number stands, in `groups` or behind its end. */
static int group_place(tree *all, uint32_t group, uint32_t **place)
{
    if (2 * (all->by_group.used + 1) > all->by_group.mask) {
        free(all->by_group.slots);
        TRY(table_room(&all->by_group, 2 * all->by_group.used + 64));
        for (size_t i = 0; i < all->groups.count; i += 2) {
            size_t at = hash(all->seed, (uint8_t *)&all->groups.items[i], sizeof group);
            while (all->by_group.slots[at & all->by_group.mask] != NONE)
                at++;
            all->by_group.slots[at & all->by_group.mask] = (uint32_t)i;
        }
    }
    size_t at = hash(all->seed, (uint8_t *)&group, sizeof group);
    uint32_t *slot;
    while (*(slot = &all->by_group.slots[at & all->by_group.mask]) != NONE && all->groups.items[*slot] != group)
        at++;
    if (*slot == NONE) {
        GROW(all->groups, 2);
        *slot = (uint32_t)all->groups.count;
        all->groups.items[all->groups.count++] = group;
        all->groups.items[all->groups.count++] = NONE;
        all->by_group.used++;
    }
    *place = &all->groups.items[*slot + 1];
    return OK;
}

/* The node that a leaf became is the one of an earlier name, if it is a hard link: `*index` then tells. */
static int join_links(tree *all, uint32_t group, uint32_t *index)
{
    uint32_t *first;
    TRY(group_place(all, group, &first));
    if (*first == NONE) {
        *first = *index;
        return OK;
    }
    node *one = &all->nodes.items[*index];
    NEED(same_inode(all, &all->nodes.items[*first], one));
    all->xattrs.count -= one->xattr_count;
    all->chunks.count -= one->chunk_count;
    all->nodes.count--;
    *index = *first;
    return OK;
}

static int add_node(tree *all, uint32_t *index)
{
    NEED(all->nodes.count < NONE);
    GROW(all->nodes, 1);
    *index = (uint32_t)all->nodes.count++;
    memset(&all->nodes.items[*index], 0, sizeof(node));
    return OK;
}

static int read_below(tree *all, message *from, part body, uint32_t parent_depth, uint32_t index)
{
    span key;
    TRY(ascii_in(from, body, 0, &key));
    record *found = find_record(all, key);
    NEED(found && !found->is_reached && parent_depth < all->limits.depth);
    found->is_reached = 1;
    GROW(all->todo, 1);
    all->todo.items[all->todo.count++] = (pending){index, parent_depth + 1, found};
    return OK;
}

static int read_entry(tree *all, message *from, part entry, uint32_t depth, child *into)
{
    part extra, body;
    more rest;
    TRY(add_node(all, &into->node));
    node *one = &all->nodes.items[into->node];
    TRY(struct_in(from, entry, 3, &extra));
    TRY(read_extra(all, from, extra, (uint32_t)number(entry, 12, 4), one, &rest));
    into->name = rest.name;
    if (!rest.name.size)
        TRY(text_in(from, entry, 0, &into->name));
    NEED(is_name(into->name));
    uint64_t kind = number(entry, 8, 2);
    TRY(ascii_in(from, entry, 2, &one->acl));
    TRY(struct_in(from, entry, 1, &body));
    if (kind == 0) {
        all->xattrs.count -= one->xattr_count; /* a directory's own record says what it is */
        memset(one, 0, sizeof *one);
        return read_below(all, from, body, depth, into->node);
    }
    if (kind == 1) {
        one->mode = S_IFREG;
        one->size = number(entry, 0, 8);
        TRY(read_chunks(all, from, body, one));
    } else if (kind == 2) {
        one->mode = S_IFLNK;
        one->target = rest.target;
        if (!rest.target.size)
            TRY(text_in(from, body, 0, &one->target));
        one->size = number(entry, 0, 8);
    } else {
        NEED(kind == 3);
        one->size = number(entry, 0, 8);
        TRY(read_special(from, body, one));
    }
    TRY(apply_acl(all, one));
    return rest.group ? join_links(all, rest.group, &into->node) : OK;
}

static int read_directory(tree *all, pending what)
{
    message from;
    part root, extra;
    list entries;
    span text;
    more rest;
    TRY(root_of(what.from->value, &from, &root));
    TRY(struct_in(&from, root, 5, &extra));
    node *one = &all->nodes.items[what.node];
    one->mode = S_IFDIR;
    TRY(read_extra(all, &from, extra, (uint32_t)number(root, 8, 4), one, &rest));
    TRY(text_in(&from, root, 1, &text));
    TRY(ascii_in(&from, root, 3, &text));
    TRY(ascii_in(&from, root, 4, &one->acl));
    TRY(apply_acl(all, one));
    TRY(list_in(&from, root, 2, 4, &entries));
    all->entries += entries.count;
    NEED(all->entries <= all->limits.entries && all->children.count + entries.count < NONE);
    one->children = (uint32_t)all->children.count;
    one->child_count = entries.count;
    GROW(all->children, entries.count);
    all->children.count += entries.count;
    child *children = all->children.items + one->children;
    for (uint32_t i = 0; i < entries.count; i++)
        TRY(read_entry(all, &from, item(entries, i), what.depth, &children[i]));
    if (entries.count)
        qsort(children, entries.count, sizeof *children, by_name);
    for (uint32_t i = 1; i < entries.count; i++)
        NEED(!same(children[i - 1].name, children[i].name));
    return OK;
}

/* Node 0 is the root. */
static int read_tree(tree *all, span root_key)
{
    uint32_t root;
    TRY(index_records(all));
    record *from = find_record(all, root_key);
    NEED(from);
    from->is_reached = 1;
    TRY(add_node(all, &root));
    GROW(all->todo, 1);
    all->todo.items[all->todo.count++] = (pending){root, 0, from};
    while (all->todo.count)
        TRY(read_directory(all, all->todo.items[--all->todo.count]));
    return OK;
}

static void free_tree(tree *all)
{
    free(all->records.items);
    free(all->nodes.items);
    free(all->children.items);
    free(all->xattrs.items);
    free(all->chunks.items);
    free(all->todo.items);
    free(all->groups.items);
    free(all->by_key.slots);
    free(all->by_group.slots);
}
