// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Loading, the thread that looks at sites every few milliseconds, unloading.
 */
#define pr_fmt(fmt) "relpoline: " fmt

#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/workqueue.h>
#include "relpoline.h"

DEFINE_MUTEX(relpoline_lock);

static bool enable = true;
module_param(enable, bool, 0444);
MODULE_PARM_DESC(enable, "begin to promote at once (default: yes)");

static struct task_struct *thread;

/* Slots that a preempted task may still be in are free after this. */
static void wait_for_grace(struct work_struct *work)
{
	mutex_lock(&relpoline_lock);
	relpoline_engine_grace(false);
	mutex_unlock(&relpoline_lock);
	relpoline_kernel.synchronize_rcu_tasks_rude();
	relpoline_kernel.synchronize_rcu_tasks();
	mutex_lock(&relpoline_lock);
	relpoline_engine_grace(true);
	mutex_unlock(&relpoline_lock);
}

static DECLARE_DELAYED_WORK(grace, wait_for_grace);

static void rest(u32 us)
{
	if (us < 20000)
		usleep_range_state(us, us + us / 4, TASK_IDLE);
	else
		schedule_timeout_idle(usecs_to_jiffies(us));
}

static int look_around(void *unused)
{
	while (!kthread_should_stop()) {
		bool wants_grace;
		u32 us;

		mutex_lock(&relpoline_lock);
		us = relpoline_engine_tick();
		wants_grace = relpoline_engine_wants_grace();
		mutex_unlock(&relpoline_lock);
		if (wants_grace)
			queue_delayed_work(system_unbound_wq, &grace, HZ / 4);
		rest(us);
	}
	return 0;
}

/* Every site leads to its thunk again when this returns, and nobody is in our text any more. */
static void restore(void)
{
	bool told = false;

	for (;;) {
		bool restored;

		mutex_lock(&relpoline_lock);
		restored = relpoline_engine_disable();
		mutex_unlock(&relpoline_lock);
		if (restored)
			break;
		if (!told)
			pr_warn("waiting: a probe stands on a site that has to be restored before the module can go\n");
		told = true;
		msleep(100);
	}
	relpoline_kernel.synchronize_rcu_tasks_rude();
	relpoline_kernel.synchronize_rcu_tasks();
}

static int __init relpoline_init(void)
{
	int err = relpoline_find_symbols();

	if (!err)
		err = relpoline_check_kernel();
	if (!err)
		err = relpoline_machine_start();
	if (err)
		return err;
	err = relpoline_watch();
	if (err)
		goto stop;
	if (enable) {
		mutex_lock(&relpoline_lock);
		relpoline_engine_enable();
		mutex_unlock(&relpoline_lock);
	}
	thread = kthread_run(look_around, NULL, "relpoline");
	if (IS_ERR(thread)) {
		err = PTR_ERR(thread);
		goto undo;
	}
	relpoline_debugfs_create();
	pr_info("loaded\n");
	return 0;
undo:
	restore();
	relpoline_unwatch();
stop:
	relpoline_machine_stop();
	return err;
}

static void __exit relpoline_exit(void)
{
	relpoline_debugfs_remove();
	kthread_stop(thread);
	cancel_delayed_work_sync(&grace);
	/* Modules are watched until the last branch is put back: one of theirs may go meanwhile. */
	restore();
	relpoline_unwatch();
	relpoline_machine_stop();
	pr_info("unloaded\n");
}

module_init(relpoline_init);
module_exit(relpoline_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Promotes the kernel's retpolined indirect calls to direct calls while it runs");
