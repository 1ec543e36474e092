/* The one reader of the g8ufs rows, run on both sides: prints the seconds its work took and what it saw.
 *
 *   g8ufs_reader list DIR          relative paths of the regular files, NUL-terminated, in readdir order
 *   g8ufs_reader stat DIR          walk with readdir and lstat every entry
 *   g8ufs_reader read DIR LIST SEED   open, read and close every file of LIST (as `list` wrote it), shuffled;
 *                                  the list is read before the clock starts, so nothing of DIR is warm
 *
 * Output of stat and read: "<seconds> <count> <bytes>"; read adds a sum over all bytes.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static uint64_t count, bytes, sum;
static unsigned char buffer[1 << 20];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void walk(int at, const char *name, const char *path, int list)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    if (!dir)
        err(1, "%s", path);
    while ((entry = readdir(dir))) {
        struct stat info;
        char below[4096];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW))
            err(1, "%s/%s", path, entry->d_name);
        count++;
        bytes += S_ISREG(info.st_mode) ? info.st_size : 0;
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", entry->d_name);
        if (S_ISDIR(info.st_mode))
            walk(fd, entry->d_name, below, list);
        else if (list && S_ISREG(info.st_mode))
            fwrite(below, strlen(below) + 1, 1, stdout);
    }
    closedir(dir);
}

static char **load(const char *path, size_t *total)
{
    FILE *file = fopen(path, "r");
    char **names = NULL, *line = NULL;
    size_t room = 0, length = 0;
    if (!file)
        err(1, "%s", path);
    for (*total = 0; getdelim(&line, &length, 0, file) > 0; ++*total) {
        if (*total == room && !(names = realloc(names, (room = room * 2 + 1024) * sizeof *names)))
            err(1, "realloc");
        names[*total] = strdup(line);
    }
    fclose(file);
    free(line);
    return names;
}

static void read_all(int at, char **names, size_t total)
{
    for (size_t i = 0; i < total; i++) {
        int fd = openat(at, names[i], O_RDONLY | O_CLOEXEC);
        ssize_t got;
        if (fd < 0)
            err(1, "%s", names[i]);
        while ((got = read(fd, buffer, sizeof buffer)) > 0) {
            bytes += got;
            for (ssize_t j = 0; j < got; j += 64)
                sum += buffer[j];
        }
        if (got < 0)
            err(1, "%s", names[i]);
        close(fd);
        count++;
    }
}

int main(int argc, char **argv)
{
    double start;
    if (argc == 3 && !strcmp(argv[1], "list")) {
        walk(AT_FDCWD, argv[2], "", 1);
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "stat")) {
        start = now();
        walk(AT_FDCWD, argv[2], "", 0);
        printf("%.6f %lu %lu\n", now() - start, count, bytes);
        return 0;
    }
    if (argc == 5 && !strcmp(argv[1], "read")) {
        size_t total;
        char **names = load(argv[3], &total);
        int at;
        srandom(strtoul(argv[4], NULL, 10));
        for (size_t i = total; i > 1; i--) {
            size_t j = random() % i;
            char *name = names[i - 1];
            names[i - 1] = names[j];
            names[j] = name;
        }
        start = now();
        at = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (at < 0)
            err(1, "%s", argv[2]);
        read_all(at, names, total);
        printf("%.6f %lu %lu %lu\n", now() - start, count, bytes, sum);
        return 0;
    }
    fprintf(stderr, "usage: g8ufs_reader list DIR | stat DIR | read DIR LIST SEED\n");
    return 100;
}
