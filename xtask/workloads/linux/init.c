/* What User-Mode Linux starts instead of an init: one workload by name, several times, then the end.
 *   receive   pktgen puts packets of 60 bytes into the receive path, up to a UDP socket that is full
 *   send      pktgen hands packets to a device that drops them
 *   list      getdents over a directory of 3,000 files in tmpfs
 *   write     a file of 1 MiB in tmpfs is written and read, 64 KiB a call
 *   pipe      64 KiB go through a pipe, in two calls
 *   udp       60-byte packets over loopback, 64 a system call
 *   tcp       64 KiB a call over a loopback connection
 * A line for each time, behind the first one: "rate NUMBER", a second. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/proc/net/pktgen/dummy0"
#define CHECK(held, what) ((held) ? (void)0 : fail(what))

static void end(void) {
    sync();
    reboot(RB_POWER_OFF);
    for (;;) pause();
}

static void fail(const char *what) {
    printf("failed: %s: %m\n", what);
    end();
}

static void tell(const char *file, const char *order) {
    int fd = open(file, O_WRONLY);
    CHECK(fd >= 0, file);
    CHECK(write(fd, order, strlen(order)) == (ssize_t)strlen(order), order);
    close(fd);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* An address for an interface, which is brought up. Its hardware address comes back. */
static void up(int control, const char *name, const char *address, unsigned char hardware[6]) {
    struct ifreq request = { 0 };
    strcpy(request.ifr_name, name);
    struct sockaddr_in *place = (struct sockaddr_in *)&request.ifr_addr;
    place->sin_family = AF_INET;
    inet_pton(AF_INET, address, &place->sin_addr);
    CHECK(ioctl(control, SIOCSIFADDR, &request) == 0, "an address");
    inet_pton(AF_INET, "255.255.255.0", &place->sin_addr);
    CHECK(ioctl(control, SIOCSIFNETMASK, &request) == 0, "a net mask");
    CHECK(ioctl(control, SIOCGIFFLAGS, &request) == 0, "flags");
    request.ifr_flags |= IFF_UP;
    CHECK(ioctl(control, SIOCSIFFLAGS, &request) == 0, "up");
    CHECK(ioctl(control, SIOCGIFHWADDR, &request) == 0, "a hardware address");
    memcpy(hardware, request.ifr_hwaddr.sa_data, 6);
}

/* Packets, and their rate as pktgen says it: "Result: OK: ... 2000000 (60byte,0frags)\n  2332105pps ...". */
static void packets(const char *mode, int times) {
    unsigned char hardware[6];
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    up(control, "lo", "127.0.0.1", hardware);
    up(control, "dummy0", "198.18.0.42", hardware);
    /* Who receives: a socket whose buffer is soon full. */
    int receiver = socket(AF_INET, SOCK_DGRAM, 0), room = 2048;
    struct sockaddr_in port = { .sin_family = AF_INET, .sin_port = htons(9) };
    CHECK(bind(receiver, (struct sockaddr *)&port, sizeof port) == 0, "bind");
    setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    tell("/proc/net/pktgen/kpktgend_0", "add_device dummy0");
    char target[64];
    snprintf(target, sizeof target, "dst_mac %02x:%02x:%02x:%02x:%02x:%02x", hardware[0], hardware[1], hardware[2],
             hardware[3], hardware[4], hardware[5]);
    const char *orders[] = { "count 1000000", "delay 0", "pkt_size 60", "dst_min 198.18.0.42", "dst_max 198.18.0.42",
        "src_min 198.18.0.43", "src_max 198.18.0.43", target, "udp_dst_min 9", "udp_dst_max 9", mode };
    for (unsigned n = 0; n < sizeof orders / sizeof *orders; n++) tell(DEVICE, orders[n]);
    for (int n = 0; n <= times; n++) {
        tell("/proc/net/pktgen/pgctrl", "start\n");
        char text[4096];
        int fd = open(DEVICE, O_RDONLY);
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        text[length > 0 ? length : 0] = 0;
        char *result = strstr(text, "Result: OK"), *line = result ? strchr(result, '\n') : 0;
        CHECK(line, text);
        if (n > 0) printf("rate %ld\n", atol(line));
    }
}

static void list(int times) {
    char name[64];
    CHECK(mkdir("/tmp/files", 0755) == 0, "a directory");
    for (int n = 0; n < 3000; n++) {
        snprintf(name, sizeof name, "/tmp/files/%d", n);
        close(open(name, O_CREAT | O_WRONLY, 0644));
    }
    for (int n = 0; n <= times; n++) {
        double begun = now();
        long entries = 0;
        for (int round = 0; round < 300; round++) {
            DIR *directory = opendir("/tmp/files");
            while (readdir(directory)) entries++;
            closedir(directory);
        }
        CHECK(entries == 300 * 3002, "entries");
        if (n > 0) printf("rate %.0f\n", entries / (now() - begun));
    }
}

/* One thing that `once` does, as often as `count` says, and how many of them a second. */
static void repeat(int times, long count, long each, void (*once)(void)) {
    for (int n = 0; n <= times; n++) {
        double begun = now();
        for (long round = 0; round < count; round++) once();
        if (n > 0) printf("rate %.0f\n", (double)count * each / (now() - begun));
    }
}

enum { CHUNK = 64 << 10, CHUNKS = 16, BATCH = 64, SMALL = 60 };
static char chunk[CHUNK];
static int from, to;

static void write_file(void) {
    for (int n = 0; n < CHUNKS; n++) CHECK(pwrite(to, chunk, CHUNK, (off_t)n * CHUNK) == CHUNK, "pwrite");
    for (int n = 0; n < CHUNKS; n++) CHECK(pread(to, chunk, CHUNK, (off_t)n * CHUNK) == CHUNK, "pread");
}

/* What was written comes out again, in as many pieces as the kernel likes. */
static void through(void) {
    CHECK(write(to, chunk, CHUNK) == CHUNK, "write");
    for (long got = 0; got < CHUNK;) {
        ssize_t more = read(from, chunk, CHUNK - got);
        CHECK(more > 0, "read");
        got += more;
    }
}

static void datagrams(void) {
    static struct mmsghdr out[BATCH], in[BATCH];
    static struct iovec sent = { chunk, SMALL }, received = { chunk, CHUNK };
    for (int n = 0; n < BATCH; n++) {
        out[n].msg_hdr = (struct msghdr) { .msg_iov = &sent, .msg_iovlen = 1 };
        in[n].msg_hdr = (struct msghdr) { .msg_iov = &received, .msg_iovlen = 1 };
    }
    CHECK(sendmmsg(to, out, BATCH, 0) == BATCH, "sendmmsg");
    CHECK(recvmmsg(from, in, BATCH, MSG_DONTWAIT, 0) == BATCH, "recvmmsg");
}

/* Two sockets that are connected over loopback: `to` and `from`. */
static void connected(int type) {
    unsigned char hardware[6];
    int room = 1 << 20, server = socket(AF_INET, type, 0);
    to = socket(AF_INET, type, 0);
    up(to, "lo", "127.0.0.1", hardware);
    struct sockaddr_in port = { .sin_family = AF_INET, .sin_port = htons(9) };
    inet_pton(AF_INET, "127.0.0.1", &port.sin_addr);
    setsockopt(server, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    setsockopt(to, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    CHECK(bind(server, (struct sockaddr *)&port, sizeof port) == 0, "bind");
    CHECK(type == SOCK_DGRAM || listen(server, 1) == 0, "listen");
    CHECK(connect(to, (struct sockaddr *)&port, sizeof port) == 0, "connect");
    from = type == SOCK_DGRAM ? server : accept(server, 0, 0);
    CHECK(from >= 0, "accept");
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    /* What the kernel's command line says and the kernel does not know comes as environment. */
    const char *work = getenv("WORK"), *often = getenv("TIMES");
    CHECK(work && often, "WORK and TIMES");
    CHECK(mount("proc", "/proc", "proc", 0, 0) == 0, "proc");
    CHECK(mount("tmp", "/tmp", "tmpfs", 0, 0) == 0, "tmpfs");
    int times = atoi(often);
    if (strcmp(work, "receive") == 0) packets("xmit_mode netif_receive", times);
    else if (strcmp(work, "send") == 0) packets("xmit_mode start_xmit", times);
    else if (strcmp(work, "list") == 0) list(times);
    else if (strcmp(work, "write") == 0) {
        to = open("/tmp/file", O_CREAT | O_RDWR, 0600);
        repeat(times, 300, 2 * CHUNKS, write_file);
    } else if (strcmp(work, "pipe") == 0) {
        int ends[2];
        CHECK(pipe(ends) == 0, "pipe");
        from = ends[0], to = ends[1];
        repeat(times, 10000, 1, through);
    } else if (strcmp(work, "udp") == 0) {
        connected(SOCK_DGRAM);
        repeat(times, 8000, BATCH, datagrams);
    } else if (strcmp(work, "tcp") == 0) {
        connected(SOCK_STREAM);
        repeat(times, 8000, 1, through);
    }
    else fail(work);
    printf("done %s\n", work);
    end();
}
