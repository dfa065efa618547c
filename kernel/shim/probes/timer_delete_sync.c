// SPDX-License-Identifier: GPL-2.0 OR MIT
/* What del_timer_sync is called: the old name has gone. */
#include <linux/timer.h>

void probe(struct timer_list *timer);
void probe(struct timer_list *timer)
{
	timer_delete_sync(timer);
}
