/*
 * From the records of an flist to its image in one pass, without the GIL: what flist/records.py, merkle.py,
 * image.py and wire/erofs.py do together, for a tree as our packer writes it. For anything else, or anything
 * wrong, `image` answers None, and those decide. They are the definition; the tests hold this to it.
 * Limited API of 3.11, so that one file serves 3.11 and 3.13.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "_blake2b.h"
#include "_flist_tree.h"

#define BLOCK 4096u
#define HOLE UINT32_MAX
#define METADATA_MAX (1u << 30)
#define SUPER_END (1024 + 128)
#define INODE_BYTES 64u
#define DIRENT_BYTES 12u
#define SLOT 32u
#define EXTENDED 1
#define XATTR_HEADER 12u
#define XATTR_VALUE_MAX 65535u
#define XATTR_WORDS_MAX 65535u
enum { FLAT_PLAIN = 0 << 1, FLAT_INLINE = 2 << 1, CHUNK_BASED = 4 << 1 };

typedef struct {
    uint64_t start;
    uint32_t size, name_at, chunk; /* `chunk` of the tree: id and key */
    uint8_t codec;
} slot;

typedef struct {
    uint32_t node, parent;
} folder;

typedef struct {
    uint32_t node, next;
    size_t path; /* length of the folder's path with its slash */
} visit;

typedef struct {
    tree tree;
    uint64_t names_max, end, position, size;
    uint32_t link_groups;
    ARRAY(slot) slots;
    ARRAY(uint8_t) names;
    ARRAY(uint8_t) path;
    ARRAY(visit) visits;
    ARRAY(folder) folders; /* in the order of their inodes: children after their parents */
    ARRAY(folder) stack;
    ARRAY(uint32_t) order; /* inodes */
    ARRAY(folder) plain;   /* what does not fit inline: node, blocks */
    table by_id;
} image;

static uint64_t up(uint64_t value, uint64_t step)
{
    return (value + step - 1) / step * step;
}

/* --- slots of the data area: flist/image.py::_Slots */

static int add_slot(image *to, const node *file, uint32_t index, uint32_t name_at, int aligned)
{
    chunk *of = &to->tree.chunks.items[index];
    uint64_t start = aligned ? up(to->end, BLOCK) : to->end;
    NEED(up(to->end, BLOCK) / BLOCK < HOLE && to->slots.count < NONE);
    GROW(to->slots, 1);
    to->slots.items[to->slots.count++] = (slot){start, of->size, name_at, index, file->codec};
    of->block = (uint32_t)(start / BLOCK);
    to->end = start + of->size;
    return OK;
}

static int add_name(image *to, uint32_t *name_at)
{
    NEED(to->names.count + to->path.count + 1 <= to->names_max);
    GROW(to->names, to->path.count + 1);
    *name_at = (uint32_t)to->names.count;
    memcpy(to->names.items + to->names.count, to->path.items, to->path.count);
    to->names.count += to->path.count + 1;
    to->names.items[to->names.count - 1] = 0;
    return OK;
}

/* The place in `by_id` where this chunk's slot is, or belongs. */
static uint32_t *id_place(image *to, const uint8_t *id)
{
    size_t at = hash(to->tree.seed, id, DIGEST);
    for (;; at++) {
        uint32_t *place = &to->by_id.slots[at & to->by_id.mask];
        if (*place == NONE)
            return place;
        const slot *known = &to->slots.items[*place];
        if (!memcmp(to->tree.chunks.items[known->chunk].id, id, DIGEST))
            return place;
    }
}

static int place_chunks(image *to, node *file)
{
    static const uint8_t hole[DIGEST];
    uint32_t name_at = NONE;
    for (uint32_t i = file->chunks; i < file->chunks + file->chunk_count; i++) {
        chunk *one = &to->tree.chunks.items[i];
        one->block = HOLE;
        if (!memcmp(one->id, hole, DIGEST))
            continue;
        uint32_t *place = id_place(to, one->id);
        if (*place == NONE) {
            if (name_at == NONE)
                TRY(add_name(to, &name_at));
            *place = (uint32_t)to->slots.count;
            TRY(add_slot(to, file, i, name_at, 1));
            continue;
        }
        const slot *known = &to->slots.items[*place];
        const chunk *first = &to->tree.chunks.items[known->chunk];
        NEED(!memcmp(first->key, one->key, DIGEST) && known->size == one->size && known->codec == file->codec);
        one->block = first->block;
    }
    return OK;
}

static int place_whole(image *to, node *file)
{
    uint32_t name_at;
    TRY(add_name(to, &name_at));
    file->extent = (uint32_t)(up(to->end, BLOCK) / BLOCK);
    for (uint32_t i = 0; i < file->chunk_count; i++)
        TRY(add_slot(to, file, file->chunks + i, name_at, i == 0));
    return OK;
}

/* A name of a node, in the order of flist/tree.py::walk. */
static int visit_node(image *to, node *one)
{
    if (one->is_placed) {
        one->link = one->link ? one->link : ++to->link_groups;
        return OK;
    }
    one->is_placed = 1;
    if (!one->chunk_count)
        return OK;
    return one->is_whole ? place_whole(to, one) : place_chunks(to, one);
}

static int place_all(image *to)
{
    TRY(table_room(&to->by_id, to->tree.chunks.count));
    to->tree.nodes.items[0].is_placed = 1;
    GROW(to->visits, 1);
    to->visits.items[to->visits.count++] = (visit){0, 0, 0};
    while (to->visits.count) {
        visit *at = &to->visits.items[to->visits.count - 1];
        const node *in = &to->tree.nodes.items[at->node];
        if (at->next == in->child_count) {
            to->visits.count--;
            continue;
        }
        const child *below = &to->tree.children.items[in->children + at->next++];
        to->path.count = at->path;
        GROW(to->path, below->name.size + 1);
        memcpy(to->path.items + to->path.count, below->name.at, below->name.size);
        to->path.count += below->name.size;
        node *one = &to->tree.nodes.items[below->node];
        TRY(visit_node(to, one));
        if (S_ISDIR(one->mode)) {
            to->path.items[to->path.count] = '/';
            GROW(to->visits, 1);
            to->visits.items[to->visits.count++] = (visit){below->node, 0, to->path.count + 1};
        }
    }
    return OK;
}

/* --- extended attributes: wire/erofs_xattr.py */

static int split_name(span name, uint8_t *index, span *rest)
{
    static const struct { const char *text; uint8_t index, is_whole; } known[] = {
        {"system.posix_acl_access", 2, 1}, {"system.posix_acl_default", 3, 1},
        {"user.", 1, 0}, {"trusted.", 4, 0}, {"security.", 6, 0},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t size = strlen(known[i].text);
        if (name.size < size || memcmp(name.at, known[i].text, size))
            continue;
        *index = known[i].index;
        *rest = (span){name.at + size, name.size - size};
        if (known[i].is_whole && !rest->size)
            return OK;
        if (!known[i].is_whole)
            NEED(rest->size && name.size <= 255 && !memchr(rest->at, 0, rest->size));
        return known[i].is_whole ? OTHER : OK;
    }
    return OTHER;
}

/* Bytes between the inode and its data; with `to` they are written too. */
static int put_xattrs(const image *from, const node *one, uint8_t *to, uint64_t *size)
{
    *size = one->xattr_count ? XATTR_HEADER : 0;
    for (uint32_t i = 0; i < one->xattr_count; i++) {
        const xattr *each = &from->tree.xattrs.items[one->xattrs + i];
        uint8_t index;
        span rest;
        TRY(split_name(each->name, &index, &rest));
        NEED(each->value.size <= XATTR_VALUE_MAX);
        if (to) {
            uint8_t *at = to + *size;
            at[0] = (uint8_t)rest.size;
            at[1] = index;
            at[2] = (uint8_t)each->value.size;
            at[3] = (uint8_t)(each->value.size >> 8);
            memcpy(at + 4, rest.at ? rest.at : at, rest.size);
            if (each->value.size)
                memcpy(at + 4 + rest.size, each->value.at, each->value.size);
        }
        *size = up(*size + 4 + rest.size + each->value.size, 4);
    }
    NEED(!one->xattr_count || (*size - XATTR_HEADER) / 4 + 1 <= XATTR_WORDS_MAX);
    return OK;
}

/* --- places of inodes: wire/erofs.py::_Layout */

/* The names of a folder with `.` and `..` among them, in byte order. */
typedef struct {
    const child *items;
    uint32_t count, dot, dots; /* places of the two */
} names;

static names names_of(const image *of, const node *in)
{
    static const uint8_t dots[] = "..";
    names all = {of->tree.children.items + in->children, in->child_count, 0, 0};
    uint32_t low = 0;
    while (low < all.count && order(all.items[low].name, (span){dots, 1}) < 0)
        low++;
    all.dot = low;
    while (low < all.count && order(all.items[low].name, (span){dots, 2}) < 0)
        low++;
    all.dots = low + 1;
    all.count += 2;
    return all;
}

/* NULL for the two. */
static const child *name_at(const names *all, uint32_t index, span *name)
{
    static const uint8_t dots[] = "..";
    if (index == all->dot || index == all->dots) {
        *name = (span){dots, index == all->dot ? 1 : 2};
        return NULL;
    }
    const child *one = &all->items[index - (index > all->dot) - (index > all->dots)];
    *name = one->name;
    return one;
}

/* Index behind the last name that fits into the block which begins with `first`, and the bytes it takes. */
static uint32_t cut(const names *all, uint32_t first, uint32_t *used)
{
    uint32_t index = first;
    *used = 0;
    for (; index < all->count; index++) {
        span name;
        name_at(all, index, &name);
        if (*used + DIRENT_BYTES + name.size > BLOCK)
            break;
        *used += DIRENT_BYTES + (uint32_t)name.size;
    }
    return index;
}

static uint64_t start_of(const image *to)
{
    return to->position % BLOCK + INODE_BYTES <= BLOCK ? to->position : up(to->position, BLOCK);
}

static int take(image *to, uint32_t index, uint64_t at, uint64_t size)
{
    to->tree.nodes.items[index].position = at;
    to->position = up(at + size, SLOT);
    NEED(to->position <= METADATA_MAX);
    GROW(to->order, 1);
    to->order.items[to->order.count++] = index;
    return OK;
}

static int place(image *to, uint32_t index, uint64_t size)
{
    node *one = &to->tree.nodes.items[index];
    uint64_t head, at = start_of(to);
    TRY(put_xattrs(to, one, NULL, &head));
    head += INODE_BYTES;
    one->layout = FLAT_PLAIN;
    if (size && head % BLOCK + size <= BLOCK) {
        if ((at + head) / BLOCK != (at + head + size - 1) / BLOCK)
            at = up(at, BLOCK);
        one->layout = FLAT_INLINE;
        one->tail = at + head;
        head += size;
    } else if (size) {
        GROW(to->plain, 1);
        to->plain.items[to->plain.count++] = (folder){index, (uint32_t)(up(size, BLOCK) / BLOCK)};
    }
    return take(to, index, at, head);
}

static int place_file(image *to, uint32_t index)
{
    node *one = &to->tree.nodes.items[index];
    uint64_t head, at = start_of(to), map = one->is_whole ? 0 : 4 * (uint64_t)one->chunk_count;
    TRY(put_xattrs(to, one, NULL, &head));
    head += INODE_BYTES;
    one->layout = map ? CHUNK_BASED : FLAT_PLAIN;
    one->tail = at + head;
    return take(to, index, at, head + map);
}

static int place_leaf(image *to, uint32_t index)
{
    node *one = &to->tree.nodes.items[index];
    if (S_ISREG(one->mode))
        return place_file(to, index);
    one->size = one->target.size;
    if (S_ISLNK(one->mode))
        NEED(one->size && one->size < BLOCK && !memchr(one->target.at, 0, one->size));
    return place(to, index, one->size);
}

static int place_folder(image *to, folder at)
{
    node *one = &to->tree.nodes.items[at.node];
    names all = names_of(to, one);
    uint32_t used = 0, first = 0;
    uint64_t blocks = 0;
    while (first < all.count) {
        first = cut(&all, first, &used);
        blocks++;
    }
    one->size = (blocks - 1) * BLOCK + used;
    GROW(to->folders, 1);
    to->folders.items[to->folders.count++] = at;
    TRY(place(to, at.node, one->size));
    uint32_t below = 0;
    for (uint32_t i = 0; i < one->child_count; i++) {
        uint32_t index = to->tree.children.items[one->children + i].node;
        node *each = &to->tree.nodes.items[index];
        if (S_ISDIR(each->mode))
            below++;
        else if (!each->nlink)
            TRY(place_leaf(to, index));
        each->nlink++;
    }
    one->nlink += 1 + below;
    GROW(to->stack, below);
    for (uint32_t i = one->child_count; i-- > 0;) {
        uint32_t index = to->tree.children.items[one->children + i].node;
        if (S_ISDIR(to->tree.nodes.items[index].mode))
            to->stack.items[to->stack.count++] = (folder){index, at.node};
    }
    return OK;
}

static int lay_out(image *to)
{
    to->position = SUPER_END;
    GROW(to->stack, 1);
    to->stack.items[to->stack.count++] = (folder){0, 0};
    while (to->stack.count)
        TRY(place_folder(to, to->stack.items[--to->stack.count]));
    to->tree.nodes.items[0].nlink++;
    uint64_t block = up(to->position, BLOCK) / BLOCK;
    for (size_t i = 0; i < to->plain.count; i++) {
        to->tree.nodes.items[to->plain.items[i].node].tail = block * BLOCK;
        block += to->plain.items[i].parent;
    }
    to->size = block * BLOCK;
    NEED(to->size <= METADATA_MAX && block + up(to->end, BLOCK) / BLOCK < HOLE);
    return OK;
}

/* --- the Merkle root: flist/merkle.py */

static void put(uint8_t **at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *(*at)++ = (uint8_t)(value >> 8 * i);
}

static void add_size(blake2b *state, uint64_t size)
{
    uint8_t bytes[4], *at = bytes;
    put(&at, size, 4);
    blake2b_add(state, bytes, sizeof bytes);
}

static void add_part(blake2b *state, span bytes)
{
    add_size(state, bytes.size);
    blake2b_add(state, bytes.at, bytes.size);
}

static void add_chunks(blake2b *state, const image *of, const node *one)
{
    const chunk *items = of->tree.chunks.items + one->chunks;
    add_size(state, (uint64_t)DIGEST * one->chunk_count);
    for (uint32_t i = 0; i < one->chunk_count; i++)
        blake2b_add(state, items[i].id, DIGEST);
    add_size(state, (uint64_t)DIGEST * one->chunk_count);
    for (uint32_t i = 0; i < one->chunk_count; i++)
        blake2b_add(state, items[i].key, DIGEST);
    add_size(state, 4 * (uint64_t)one->chunk_count);
    for (uint32_t i = 0; i < one->chunk_count; i++)
        add_size(state, items[i].size);
}

static void digest_node(const image *of, node *one)
{
    uint8_t head[53], *at = head;
    blake2b state;
    put(&at, one->mode, 4);
    put(&at, one->uid, 4);
    put(&at, one->gid, 4);
    put(&at, (uint64_t)one->mtime_s, 8);
    put(&at, one->mtime_ns, 4);
    put(&at, S_ISREG(one->mode) ? one->size : 0, 8);
    put(&at, one->device[0], 8);
    put(&at, one->device[1], 8);
    put(&at, one->codec, 1);
    put(&at, one->link, 4);
    blake2b_begin(&state, "g8 flist entry 1");
    add_part(&state, (span){head, sizeof head});
    add_part(&state, one->target);
    for (uint32_t i = 0; i < one->xattr_count; i++) {
        add_part(&state, of->tree.xattrs.items[one->xattrs + i].name);
        add_part(&state, of->tree.xattrs.items[one->xattrs + i].value);
    }
    if (one->chunk_count)
        add_chunks(&state, of, one);
    for (uint32_t i = 0; i < one->child_count; i++) {
        const child *below = &of->tree.children.items[one->children + i];
        add_part(&state, below->name);
        add_part(&state, (span){of->tree.nodes.items[below->node].digest, DIGEST});
    }
    blake2b_end(&state, one->digest);
}

static void digest_all(image *of)
{
    for (size_t i = 0; i < of->tree.nodes.count; i++)
        if (!S_ISDIR(of->tree.nodes.items[i].mode))
            digest_node(of, &of->tree.nodes.items[i]);
    for (size_t i = of->folders.count; i-- > 0;)
        digest_node(of, &of->tree.nodes.items[of->folders.items[i].node]);
}

/* --- the bytes of the metadata: wire/erofs.py::_Writer, but for the superblock */

static uint32_t union_of(const image *of, const node *one)
{
    if (one->layout == CHUNK_BASED)
        return 7;
    if (S_ISCHR(one->mode) || S_ISBLK(one->mode))
        return (one->device[1] & 0xff) | one->device[0] << 8 | (one->device[1] & ~0xffu) << 12;
    if (one->is_whole)
        return (uint32_t)(of->size / BLOCK) + one->extent;
    return one->layout == FLAT_PLAIN && one->size ? (uint32_t)(one->tail / BLOCK) : 0;
}

static void write_inode(const image *of, const node *one, uint32_t number, uint8_t *out)
{
    uint8_t *at = out + one->position;
    uint64_t size;
    put_xattrs(of, one, at + INODE_BYTES, &size);
    put(&at, one->layout | EXTENDED, 2);
    put(&at, size ? (size - XATTR_HEADER) / 4 + 1 : 0, 2);
    put(&at, one->mode, 2);
    put(&at, 0, 2);
    put(&at, one->size, 8);
    put(&at, union_of(of, one), 4);
    put(&at, number, 4);
    put(&at, one->uid, 4);
    put(&at, one->gid, 4);
    put(&at, (uint64_t)one->mtime_s, 8);
    put(&at, one->mtime_ns, 4);
    put(&at, one->nlink, 4);
    at = out + one->tail;
    if (S_ISLNK(one->mode))
        memcpy(at, one->target.at, one->target.size);
    if (one->layout == CHUNK_BASED)
        for (uint32_t i = 0; i < one->chunk_count; i++) {
            uint32_t block = of->tree.chunks.items[one->chunks + i].block;
            put(&at, block == HOLE ? HOLE : block + of->size / BLOCK, 4);
        }
}

static uint8_t file_type(uint32_t mode)
{
    static const uint8_t types[16] = {[1] = 5, [2] = 3, [4] = 2, [6] = 4, [8] = 1, [10] = 7, [12] = 6};
    return types[mode >> 12 & 15];
}

static void write_folder(const image *of, folder in, uint8_t *out)
{
    const node *one = &of->tree.nodes.items[in.node];
    names all = names_of(of, one);
    uint32_t used, first = 0, last;
    for (uint8_t *block = out + one->tail; first < all.count; first = last, block += BLOCK) {
        last = cut(&all, first, &used);
        uint32_t text = DIRENT_BYTES * (last - first);
        uint8_t *at = block;
        for (uint32_t i = first; i < last; i++) {
            span name;
            const child *below = name_at(&all, i, &name);
            uint32_t index = below ? below->node : i == all.dot ? in.node : in.parent;
            const node *to = &of->tree.nodes.items[index];
            put(&at, to->position / SLOT, 8);
            put(&at, text, 2);
            put(&at, file_type(to->mode), 1);
            put(&at, 0, 1);
            memcpy(block + text, name.at, name.size);
            text += (uint32_t)name.size;
        }
    }
}

static void write_all(const image *of, uint8_t *out)
{
    memset(out, 0, of->size);
    for (size_t i = 0; i < of->order.count; i++)
        write_inode(of, &of->tree.nodes.items[of->order.items[i]], (uint32_t)i + 1, out);
    for (size_t i = 0; i < of->folders.count; i++)
        write_folder(of, of->folders.items[i], out);
}

static int make(image *one, span root_key)
{
    TRY(read_tree(&one->tree, root_key));
    TRY(place_all(one));
    TRY(lay_out(one));
    digest_all(one);
    return OK;
}

/* --- Python */

static int take_records(image *one, PyObject *records, span prefix)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(records, &at, &key, &value)) {
        span name, data;
        char *bytes;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(key, &bytes, &size))
            return OTHER;
        name = (span){(uint8_t *)bytes, (size_t)size};
        if (PyBytes_AsStringAndSize(value, &bytes, &size))
            return OTHER;
        data = (span){(uint8_t *)bytes, (size_t)size};
        if (name.size < prefix.size || memcmp(name.at, prefix.at, prefix.size))
            continue;
        GROW(one->tree.records, 1);
        record *to = &one->tree.records.items[one->tree.records.count++];
        memset(to, 0, sizeof *to);
        to->key = (span){name.at + prefix.size, name.size - prefix.size};
        to->value = data;
    }
    return OK;
}

typedef void (*filler)(const slot *one, const chunk *of, uint8_t *to);

static void fill_start(const slot *one, const chunk *of, uint8_t *to)
{
    (void)of;
    memcpy(to, &one->start, 8);
}

static void fill_size(const slot *one, const chunk *of, uint8_t *to)
{
    (void)of;
    memcpy(to, &one->size, 4);
}

static void fill_name(const slot *one, const chunk *of, uint8_t *to)
{
    (void)of;
    memcpy(to, &one->name_at, 4);
}

static void fill_codec(const slot *one, const chunk *of, uint8_t *to)
{
    (void)of;
    *to = one->codec;
}

static void fill_id(const slot *one, const chunk *of, uint8_t *to)
{
    (void)one;
    memcpy(to, of->id, DIGEST);
}

static void fill_key(const slot *one, const chunk *of, uint8_t *to)
{
    (void)one;
    memcpy(to, of->key, DIGEST);
}

static PyObject *column(const image *of, filler fill, size_t bytes)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(of->slots.count * bytes));
    uint8_t *to = result ? (uint8_t *)PyBytes_AsString(result) : NULL;
    for (size_t i = 0; result && i < of->slots.count; i++)
        fill(&of->slots.items[i], &of->tree.chunks.items[of->slots.items[i].chunk], to + i * bytes);
    return result;
}

static PyObject *answer(const image *one)
{
    PyObject *metadata = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)one->size);
    if (!metadata)
        return NULL;
    uint8_t *out = (uint8_t *)PyByteArray_AsString(metadata);
    Py_BEGIN_ALLOW_THREADS
    write_all(one, out);
    Py_END_ALLOW_THREADS
    return Py_BuildValue(
        "(NkkKy#NNNNNNy#)", metadata, (unsigned long)(one->tree.nodes.items[0].position / SLOT),
        (unsigned long)one->order.count, (unsigned long long)(up(one->end, BLOCK) / BLOCK),
        (const char *)one->tree.nodes.items[0].digest, (Py_ssize_t)DIGEST, column(one, fill_start, 8),
        column(one, fill_size, 4), column(one, fill_name, 4), column(one, fill_codec, 1), column(one, fill_id, DIGEST),
        column(one, fill_key, DIGEST), one->names.count ? (const char *)one->names.items : "",
        (Py_ssize_t)one->names.count);
}

static void free_image(image *one)
{
    free_tree(&one->tree);
    free(one->slots.items);
    free(one->names.items);
    free(one->path.items);
    free(one->visits.items);
    free(one->folders.items);
    free(one->stack.items);
    free(one->order.items);
    free(one->plain.items);
    free(one->by_id.slots);
}

/*
 * image(records, prefix, root_key, seed, entries, chunks, depth, names_max): the records whose keys begin with the
 * prefix, as an image, or None: metadata without a superblock, nid of the root, inodes, blocks of the data area,
 * digest of the tree, and the columns of the slot table.
 */
static PyObject *build_image(PyObject *self, PyObject *args)
{
    PyObject *records, *mine, *result = NULL;
    Py_buffer prefix, root_key, seed;
    unsigned long long entries, chunks, names_max;
    unsigned int depth;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!y*y*y*KKIK", &PyDict_Type, &records, &prefix, &root_key, &seed, &entries, &chunks,
                          &depth, &names_max))
        return NULL;
    image one = {.tree.limits = {entries, chunks, depth}, .names_max = names_max < NONE ? names_max : NONE};
    int error = OTHER;
    mine = PyDict_Copy(records); /* holds on to every key and value while nobody holds the GIL */
    if (!mine || seed.len != sizeof one.tree.seed)
        goto out;
    memcpy(one.tree.seed, seed.buf, sizeof one.tree.seed);
    error = take_records(&one, mine, (span){prefix.buf, (size_t)prefix.len});
    if (error == OK) {
        Py_BEGIN_ALLOW_THREADS
        error = make(&one, (span){root_key.buf, (size_t)root_key.len});
        Py_END_ALLOW_THREADS
    }
    if (error == OK)
        result = answer(&one);
out:
    if (error == NO_MEMORY)
        PyErr_NoMemory();
    else if (error == OTHER && !PyErr_Occurred()) {
        result = Py_None;
        Py_INCREF(result);
    }
    free_image(&one);
    Py_XDECREF(mine);
    PyBuffer_Release(&prefix);
    PyBuffer_Release(&root_key);
    PyBuffer_Release(&seed);
    return result;
}

static PyMethodDef methods[] = {
    {"image", build_image, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_flist", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__flist(void)
{
    return PyModule_Create(&module);
}
