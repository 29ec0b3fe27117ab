/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <stdio.h>
#include <string.h>

#include "themes.h"

static const struct {
    const char *name;
    void (*run)(void);
} themes[] = {
#define ROW(name) { #name, theme_##name },
    THEMES(ROW)
#undef ROW
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof(themes) / sizeof(themes[0]); i++) {
        if (strcmp(argv[1], themes[i].name) == 0) {
            themes[i].run();
            printf("%s holds\n", argv[1]);
            return 0;
        }
    }
    fprintf(stderr, "usage: %s THEME\n", argv[0]);
    return 2;
}
