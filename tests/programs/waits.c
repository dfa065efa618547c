/* Waits for its standard input in epoll_wait, which the kernel does not restart after a stop: says so when it was stopped. */
#include "check.h"
#include <sys/epoll.h>

int main(void) {
    int epoll = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN };
    CHECK(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event) == 0, "epoll");
    puts("waiting");
    fflush(stdout);
    int stops = 0;
    while (epoll_wait(epoll, &event, 1, -1) < 0) stops++;
    printf(stops ? "was stopped\n" : "was left alone\n");
    return 0;
}
