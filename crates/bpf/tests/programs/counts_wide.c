/* The later version of counts.c. */
#define WIDE
#include "counts.c"
