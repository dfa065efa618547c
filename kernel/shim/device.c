// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * /dev/relpoline/{control,sites,stats}. What they mean is in docs/kernel.md. Devices,
 * since a kernel that is locked down lets nobody into debugfs.
 */
#define pr_fmt(fmt) "relpoline: " fmt

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "relpoline.h"

static void print_word(struct seq_file *m, struct relpoline_word word)
{
	seq_write(m, word.at, word.len);
}

/* stats: a name and a figure per line. */

static void print_figure(void *m, struct relpoline_word name, u64 value)
{
	print_word(m, name);
	seq_printf(m, " %llu\n", value);
}

static int stats_show(struct seq_file *m, void *unused)
{
	mutex_lock(&relpoline_lock);
	relpoline_engine_figures(print_figure, m);
	mutex_unlock(&relpoline_lock);
	return 0;
}
static int stats_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL; /* was the device */
	return single_open(file, stats_show, NULL);
}

/* sites: one line per site, fields separated by tabs. */

static void *sites_start(struct seq_file *m, loff_t *at)
{
	struct relpoline_line line;

	mutex_lock(&relpoline_lock);
	return relpoline_engine_line(*at, &line) < 0 ? NULL : at;
}

static void *sites_next(struct seq_file *m, void *unused, loff_t *at)
{
	struct relpoline_line line;

	++*at;
	return relpoline_engine_line(*at, &line) < 0 ? NULL : at;
}

static void sites_stop(struct seq_file *m, void *unused)
{
	mutex_unlock(&relpoline_lock);
}

/* Who was given the file, but not the right to see kernel addresses, sees names only. */
static bool may_see_addresses(struct seq_file *m)
{
	return file_ns_capable(m->file, &init_user_ns, CAP_SYSLOG);
}

static int sites_show(struct seq_file *m, void *at)
{
	struct relpoline_line line;
	u32 i;

	if (relpoline_engine_line(*(loff_t *)at, &line) <= 0)
		return 0;
	seq_printf(m, "%llx\t%pS\t", may_see_addresses(m) ? line.address : 0, (void *)line.address);
	print_word(m, line.kind);
	seq_putc(m, '\t');
	print_word(m, line.reg);
	seq_putc(m, '\t');
	print_word(m, line.phase);
	seq_putc(m, '\t');
	print_word(m, line.reason);
	seq_printf(m, "\t%u\t%u\t%llu\t%llu\t%llu\t%u\t", line.promotions, line.relearned,
		   line.calls, line.misses, line.plain, line.cold);
	if (line.before)
		seq_printf(m, "%ps", (void *)line.before);
	else
		seq_putc(m, '-');
	for (i = 0; i < line.len; i++)
		seq_printf(m, "\t%u %ps", line.shares[i], (void *)line.targets[i]);
	seq_putc(m, '\n');
	return 0;
}

static const struct seq_operations sites_sops = {
	.start = sites_start,
	.next = sites_next,
	.stop = sites_stop,
	.show = sites_show,
};

static int sites_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;
	return seq_open(file, &sites_sops);
}

/* control: shows the knobs; takes one command per write. */

static int control_show(struct seq_file *m, void *unused)
{
	struct relpoline_word name;
	u32 knob, value;

	mutex_lock(&relpoline_lock);
	for (knob = 0; relpoline_engine_knob(knob, &name, &value); knob++) {
		print_word(m, name);
		seq_printf(m, " %u\n", value);
	}
	mutex_unlock(&relpoline_lock);
	return 0;
}

static int control_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;
	return single_open(file, control_show, NULL);
}

static int set_knob(const char *command)
{
	struct relpoline_word name;
	u32 knob, value, ignored;
	char wanted[32];

	if (sscanf(command, "%31s %u", wanted, &value) != 2)
		return -EINVAL;
	for (knob = 0; relpoline_engine_knob(knob, &name, &ignored); knob++)
		if (name.len == strlen(wanted) && !memcmp(name.at, wanted, name.len))
			return relpoline_engine_set(knob, value) ? 0 : -ERANGE;
	return -EINVAL;
}

static int obey(const char *command)
{
	if (!strcmp(command, "enable"))
		relpoline_enable();
	else if (!strcmp(command, "disable"))
		return relpoline_disable() ? 0 : -EBUSY;
	else if (!strcmp(command, "relearn"))
		relpoline_engine_relearn();
	else if (!strcmp(command, "count on"))
		relpoline_engine_count(true);
	else if (!strcmp(command, "count off"))
		relpoline_engine_count(false);
	else
		return set_knob(command);
	return 0;
}

static ssize_t control_write(struct file *file, const char __user *from, size_t len, loff_t *at)
{
	char command[64];
	int err;

	if (len >= sizeof(command))
		return -EINVAL;
	if (copy_from_user(command, from, len))
		return -EFAULT;
	command[len] = 0;
	mutex_lock(&relpoline_lock);
	err = obey(strim(command));
	mutex_unlock(&relpoline_lock);
	return err ?: len;
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.open = control_open,
	.read = seq_read,
	.write = control_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static const struct file_operations sites_fops = {
	.owner = THIS_MODULE,
	.open = sites_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = seq_release,
};

static const struct file_operations stats_fops = {
	.owner = THIS_MODULE,
	.open = stats_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = single_release,
};

#define DEVICE(_name, _mode)						\
	{								\
		.minor = MISC_DYNAMIC_MINOR,				\
		.name = "relpoline-" #_name,				\
		.nodename = "relpoline/" #_name,			\
		.mode = _mode,						\
		.fops = &_name##_fops,					\
	}

/* control comes last: somebody may write to it at once, and from then on nothing may fail any more. */
static struct miscdevice devices[] = {
	DEVICE(stats, 0400),
	DEVICE(sites, 0400),
	DEVICE(control, 0600),
};

static void remove_devices(int count)
{
	while (count)
		misc_deregister(&devices[--count]);
}

int relpoline_devices_create(void)
{
	int i, err;

	for (i = 0; i < ARRAY_SIZE(devices); i++) {
		err = misc_register(&devices[i]);
		if (err) {
			pr_err("refused: the device /dev/%s cannot be made (error %d)\n", devices[i].nodename, err);
			remove_devices(i);
			return err;
		}
	}
	return 0;
}

void relpoline_devices_remove(void)
{
	remove_devices(ARRAY_SIZE(devices));
}
