/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The themes: each is run in a process of its own, `abi <theme>`. */

#ifndef THEMES_H
#define THEMES_H

#define THEMES(X)                                                              \
    X(layout)                                                                  \
    X(null)                                                                    \
    X(busy)                                                                    \
    X(broken)                                                                  \
    X(pages)                                                                   \
    X(batch)                                                                   \
    X(slices)                                                                  \
    X(discards)                                                                \
    X(held)                                                                    \
    X(reports)                                                                 \
    X(large)                                                                   \
    X(memory)                                                                  \
    X(config)                                                                  \
    X(state)                                                                   \
    X(stats)                                                                   \
    X(hints)                                                                   \
    X(ram)                                                                     \
    X(features)                                                                \
    X(messages)                                                                \
    X(requests)                                                                \
    X(dirty)

#define DECLARE(name) void theme_##name(void);
THEMES(DECLARE)
#undef DECLARE

#endif
