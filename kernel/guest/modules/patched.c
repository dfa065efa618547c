// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A live patch of sock_poll. That function holds a site that is promoted (the call of
 * the protocol's poll), and is the target of another one (the call of the file's poll).
 * The new function says POLLMSG beside what is true, so that a process can tell which of
 * the two it met.
 */
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/poll.h>

static __poll_t new_sock_poll(struct file *file, poll_table *wait)
{
	struct socket *sock = file->private_data;
	const struct proto_ops *ops = READ_ONCE(sock->ops);

	return (ops->poll ? ops->poll(file, sock, wait) : 0) | EPOLLMSG;
}

static struct klp_func functions[] = {
	{ .old_name = "sock_poll", .new_func = new_sock_poll },
	{ }
};

static struct klp_object objects[] = {
	{ .funcs = functions },
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init patched_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit patched_exit(void)
{
}

module_init(patched_init);
module_exit(patched_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("A live patch, for the kernel test");
MODULE_INFO(livepatch, "Y");
