// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Loading, the thread that looks at sites every few milliseconds, unloading.
 *
 * While promotion is on, the module holds itself: it cannot be unloaded. It lets
 * itself go once every branch leads to its thunk again, which a probe on a branch
 * can delay. So unloading never waits for anybody but tasks that are in the
 * module's text, and a branch never leads into text that is gone.
 */
#define pr_fmt(fmt) "relpoline: " fmt

#include <linux/cpu.h>
#include <linux/freezer.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/timer.h>
#include <linux/workqueue.h>
#include "relpoline.h"

#ifndef RLP_TIMER_DELETE_SYNC
#define timer_delete_sync del_timer_sync
#endif

/* From here on a rest may last as long as the processor sleeps (us). */
#define LONG_REST	20000
/* Until somebody wakes the thread. */
#define NO_END		U32_MAX

DEFINE_MUTEX(relpoline_lock);

static bool enable = true;
module_param(enable, bool, 0444);
MODULE_PARM_DESC(enable, "begin to promote at once (default: yes)");

/* NULL before it begins and from when it is to end. Changed with relpoline_lock held. */
static struct task_struct *thread;
static struct workqueue_struct *queue;
/* Whether the module holds itself. Guarded by relpoline_lock. */
static bool is_held;
/* Whether something has happened since the thread looked. Set with relpoline_lock held. */
static bool is_woken;

/* Promotes from now on. Called with relpoline_lock held, by somebody who holds the module. */
void relpoline_enable(void)
{
	if (!is_held)
		__module_get(THIS_MODULE);
	is_held = true;
	relpoline_engine_enable();
	relpoline_wake();
}

/*
 * True once every branch leads to its thunk. Called with relpoline_lock held. The
 * thread looks once more: at slots that were left, and at branches that must wait.
 */
bool relpoline_disable(void)
{
	bool restored = relpoline_engine_disable();

	relpoline_wake();
	if (restored && is_held)
		module_put(THIS_MODULE);
	if (restored)
		is_held = false;
	return restored;
}

static int nothing(void *unused)
{
	return 0;
}

/*
 * Returns when no task is where our text was left before: every processor has been
 * through its scheduler, idle ones too, which no kind of RCU waits for on all
 * kernels; every section with preemption off has ended; and every preempted task
 * has gone on by itself.
 */
static void wait_for_tasks(void)
{
	int cpu;

	cpus_read_lock();
	for_each_online_cpu(cpu)
		smp_call_on_cpu(cpu, nothing, NULL, false);
	cpus_read_unlock();
	synchronize_rcu();
	synchronize_rcu_tasks();
}

/* Slots that a preempted task may still be in are free after this. */
static void wait_for_grace(struct work_struct *work)
{
	mutex_lock(&relpoline_lock);
	relpoline_engine_grace(false);
	mutex_unlock(&relpoline_lock);
	wait_for_tasks();
	mutex_lock(&relpoline_lock);
	relpoline_engine_grace(true);
	mutex_unlock(&relpoline_lock);
}

static DECLARE_DELAYED_WORK(grace, wait_for_grace);

/* Deferrable: it wakes no processor that sleeps. The thread does not end before this has ended. */
static void rested(struct timer_list *unused)
{
	struct task_struct *task = READ_ONCE(thread);

	if (task)
		wake_up_process(task);
}

static struct timer_list alarm;

/* Called with relpoline_lock held. */
void relpoline_wake(void)
{
	WRITE_ONCE(is_woken, true);
	if (thread)
		wake_up_process(thread);
}

/*
 * Interruptible: so a suspend can wake us to be frozen. Who wakes us sets is_woken first
 * and looks at our state then, we the other way round: one of the two sees the other.
 */
static void rest(u32 us)
{
	set_current_state(TASK_INTERRUPTIBLE);
	if (kthread_should_stop() || READ_ONCE(is_woken)) {
		__set_current_state(TASK_RUNNING);
	} else if (us == NO_END) {
		schedule();
	} else if (us < LONG_REST) {
		ktime_t time = ns_to_ktime(us * (u64)NSEC_PER_USEC);

		schedule_hrtimeout_range(&time, us * (NSEC_PER_USEC / 4), HRTIMER_MODE_REL);
	} else {
		mod_timer(&alarm, jiffies + usecs_to_jiffies(us));
		schedule();
		/* Whoever woke us: it shall not wake us again, nor find that we have ended. */
		timer_delete_sync(&alarm);
	}
}

static int look_around(void *unused)
{
	set_freezable();
	while (!kthread_should_stop()) {
		bool wants_grace;
		u32 us;

		mutex_lock(&relpoline_lock);
		WRITE_ONCE(is_woken, false);
		us = relpoline_engine_tick();
		wants_grace = relpoline_engine_wants_grace();
		mutex_unlock(&relpoline_lock);
		if (wants_grace)
			queue_delayed_work(queue, &grace, HZ / 4);
		rest(us);
		try_to_freeze();
	}
	return 0;
}

static int __init begin_looking(void)
{
	struct task_struct *task;

	queue = alloc_workqueue("relpoline", WQ_UNBOUND | WQ_FREEZABLE, 1);
	if (!queue)
		return -ENOMEM;
	task = kthread_create(look_around, NULL, "relpoline");
	if (IS_ERR(task)) {
		destroy_workqueue(queue);
		return PTR_ERR(task);
	}
	timer_setup(&alarm, rested, TIMER_DEFERRABLE);
	mutex_lock(&relpoline_lock);
	WRITE_ONCE(thread, task);
	mutex_unlock(&relpoline_lock);
	wake_up_process(task);
	return 0;
}

static void end_looking(void)
{
	struct task_struct *task = thread;

	/* A module that goes meanwhile wakes nobody. */
	mutex_lock(&relpoline_lock);
	WRITE_ONCE(thread, NULL);
	mutex_unlock(&relpoline_lock);
	kthread_stop(task);
	cancel_delayed_work_sync(&grace);
	destroy_workqueue(queue);
}

static int __init find_out(void)
{
	int err = relpoline_check_machine();

	if (!err)
		err = relpoline_find_symbols();
	if (!err)
		err = relpoline_check_kernel();
	if (!err)
		err = relpoline_check_stubs();
	return err;
}

/* Promotion begins last: from then on nothing can fail. */
static int __init relpoline_init(void)
{
	int err = find_out();

	if (!err)
		err = relpoline_machine_start();
	if (err)
		return err;
	err = relpoline_watch();
	if (err)
		goto stop;
	err = begin_looking();
	if (err) {
		pr_err("refused: there is not enough memory for the thread that looks at sites (error %d)\n", err);
		goto unwatch;
	}
	err = relpoline_devices_create();
	if (err)
		goto end_looking;
	if (enable) {
		mutex_lock(&relpoline_lock);
		relpoline_enable();
		mutex_unlock(&relpoline_lock);
	}
	pr_info("loaded\n");
	return 0;
end_looking:
	end_looking();
unwatch:
	relpoline_unwatch();
stop:
	relpoline_machine_stop();
	return err;
}

static void __exit relpoline_exit(void)
{
	relpoline_devices_remove();
	end_looking();
	relpoline_unwatch();
	wait_for_tasks();
	relpoline_machine_stop();
	pr_info("unloaded\n");
}

module_init(relpoline_init);
module_exit(relpoline_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Promotes the kernel's retpolined indirect calls to direct calls while it runs");
