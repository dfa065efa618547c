// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * /sys/kernel/debug/relpoline: control, sites, stats. What they mean is in
 * docs/kernel.md.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "relpoline.h"

static struct dentry *directory;

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
DEFINE_SHOW_ATTRIBUTE(stats);

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

static int sites_show(struct seq_file *m, void *at)
{
	struct relpoline_line line;
	u32 i;

	if (relpoline_engine_line(*(loff_t *)at, &line) <= 0)
		return 0;
	seq_printf(m, "%llx\t%pS\t", line.address, (void *)line.address);
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
DEFINE_SEQ_ATTRIBUTE(sites);

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
		relpoline_engine_enable();
	else if (!strcmp(command, "disable"))
		return relpoline_engine_disable() ? 0 : -EBUSY;
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

void relpoline_debugfs_create(void)
{
	directory = debugfs_create_dir("relpoline", NULL);
	debugfs_create_file("control", 0600, directory, NULL, &control_fops);
	debugfs_create_file("sites", 0400, directory, NULL, &sites_fops);
	debugfs_create_file("stats", 0400, directory, NULL, &stats_fops);
}

void relpoline_debugfs_remove(void)
{
	debugfs_remove_recursive(directory);
}
